"""The inference form's last steps in compiled calls, for eager PyTorch."""
