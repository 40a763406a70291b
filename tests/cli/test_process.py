import subprocess
import sys


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys; from senet.cli import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'lightning', 'torchvision', 'timm', 'sklearn', 'matplotlib', 'torchmetrics'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ran = _python("-W", "error", "-c", code)
    assert ran.returncode == 0, ran.stderr


def test_as_a_module_and_into_a_pipe_that_closes():
    ran = _python("-m", "senet", "models", "resnet20")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "resnet20\n", "")
    code = f"{sys.executable} -m senet models | true"
    ran = subprocess.run(code, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == ""
