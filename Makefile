PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo study test test-full-size

# A short comparison of SFT, MaPO and Diffusion-DPO, ending in a report: about five minutes on two CPU cores.
demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py

# The same with more seeds, a search of learning rates and a swapped-label control: about half an hour.
study: $(VENV)/installed
	$(BIN)/python scripts/study.py

test: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/python -m pytest

# SDXL's own UNet with random weights: about five minutes, 14 GB of memory, 5 GB of disk.
test-full-size: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/full_size -m full_size -s

# Stamps: nothing is installed again until pyproject.toml changes.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[test]'
	touch $(VENV)/installed $@
