# make demo   a made task on which SE must help, then the main job on the embedded data
# make test   the checks and the fast tests
# make check  formatter, linter, type checker
# make long   the tests marked long
# make fuzz   40,000 mutated JPEG and PNG files through the decoder, its memory measured: a minute
# make sanitize the compiled C under address and undefined-behaviour sanitizers, over 2,000 layouts of memory and in inference: minutes
# make chaos  runs killed at 20 random moments, ranks killed under torchrun, jobs told to stop: minutes each
# make slurm  a real SLURM of one machine, and an ablation through it: minutes; installs Debian's packages where missing
# make survey SE into 213 networks of torchvision, timm, segmentation-models-pytorch and MONAI: docs/survey.md
# make frameworks SE in other people's trainers and tools, the real ones: docs/frameworks.md; needs a network, minutes
# make studies the next trainings of the studies planned in docs/results.md: an hour and a half
# make devices SE through ExecuTorch, LiteRT, ncnn and Core ML's converter; needs a network, minutes
# make gpu    on a machine with a CUDA GPU: its tests, and the GPU rows of the benchmark as JSON, in under nine minutes
# make bench  what SE costs in time and memory, by engine: docs/speed.md; hours, on an idle machine
# make docs   the site: build/docs/index.html; a warning is an error
# make clean  remove what the other targets made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test long sanitize chaos fuzz slurm survey frameworks studies devices gpu bench docs check clean
.DELETE_ON_ERROR:

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "senet needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

# Commands that a person would type. On a made task SE must help; then on real pictures: where SE goes, that nothing
# changes, what it costs, whether it helps.
demo: $(VENV)/ready
	$(BIN)/senet compare --model short_sighted --data context --seeds 3 --out runs/context
	$(BIN)/senet sites --model resnet20 --num-classes 10 --data digits
	$(BIN)/senet insert --model resnet20 --num-classes 10 --data digits --out runs/se_resnet20.safetensors
	$(BIN)/senet cost --model resnet20 --num-classes 10 --data digits
	$(BIN)/senet compare --model resnet20 --data digits --seeds 3 --out runs/demo

test: check
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

long: $(VENV)/ready
	$(BIN)/python -m pytest -m long

fuzz: $(VENV)/ready
	$(BIN)/python -m pytest -s -m long tests/data/test_fuzz.py

# The sanitizers' libraries must be loaded before Python; Python's own leaks at exit are not ours.
sanitize: $(VENV)/ready
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python -m pytest -p tests.fused.sanitized -m "long or not long" \
	tests/fused/test_layouts.py tests/inference/test_eager_calls.py tests/inference/test_eager_forms.py

chaos: $(VENV)/ready
	$(BIN)/python -m pytest -s -m long tests/training/test_chaos.py

slurm: $(VENV)/ready
	command -v slurmctld slurmd munged sbatch || apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client munge
	$(BIN)/python -m pytest -m long tests/study/cells/test_slurm.py

survey: $(VENV)/ready
	$(BIN)/python benchmarks/survey.py

# An extra in an environment of its own: other people's pins (an older timm, a second OpenCV) stay out of the one above.
.venv-%/ready: pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --disable-pip-version-check --quiet --editable '.[$*]'
	touch $@

frameworks: .venv-frameworks/ready
	.venv-frameworks/bin/python -m pytest -m frameworks tests/frameworks

# Trainings of the plan in docs/results.md that are not done yet, for an hour and a half, one thread; commit docs/results.
studies: $(VENV)/ready
	OMP_NUM_THREADS=1 nice $(BIN)/python benchmarks/studies.py
	$(BIN)/python benchmarks/studies_page.py

# The converters' warnings are theirs.
devices: .venv-devices/ready
	.venv-devices/bin/python -m pytest -o filterwarnings= -m devices tests/devices

# No setting up: a rented GPU has PyTorch, Triton and timm, and perhaps no network.
gpu:
	$(PYTHON) benchmarks/gpu.py --out runs/gpu

bench: $(VENV)/ready
	$(BIN)/python benchmarks/speed.py

docs: $(VENV)/ready
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-frameworks .venv-devices runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
