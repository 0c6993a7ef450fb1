PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo study study-tasks test test-faults test-fuzz test-slurm test-browser test-full-size reliability

# A short comparison of SFT, MaPO and Diffusion-DPO, ending in a report: about five minutes on two CPU cores.
demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py

# docs/study.md: every method at three sizes of reference mismatch, each with a search and five seeds. It resumes.
study: $(VENV)/installed
	$(BIN)/python scripts/study.py

# All offline methods on the tiny twin's five tasks, five seeds each: hours on two CPU cores. What is finished is kept in
# docs/study, so that it goes on where it was, also in another checkout. Needs the extra evaluation, as the tests do.
study-tasks: $(VENV)/installed-test
	$(BIN)/python scripts/study_tasks.py

# The default suite, on two cores: two processes of one thread each, and a file's tests stay in one of them. The test of
# what is flushed to the disk needs Debian's package `strace`; without it it is skipped, and says so.
test: $(VENV)/installed-test
	$(BIN)/ruff check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# SDXL's own UNet with random weights: about five minutes, 14 GB of memory, 5 GB of disk.
test-full-size: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/full_size -m full_size -s

# Real processes, killed and starved in every way we could think of: about ten minutes.
test-faults: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/faults tests/sweeps tests/pairs tests/iterations -m faults

# Hundreds of damaged files of runs, caches and stores, and of values that nobody means: about eight minutes. Each has a
# seed, so that a failure can be repeated.
test-fuzz: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz -m fuzz -n 2 --dist loadfile

# A Slurm of its own on this machine, started and stopped here, as root or not: about ten minutes. Debian's packages:
# apt-get install slurmctld slurmd slurm-client munge. Without them the tests are skipped, and say so.
test-slurm: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/slurm -m slurm

# The report page in a headless Chromium, Debian's package `chromium`; without it the tests are skipped, and say so.
test-browser: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/report -m browser

# Every test that has seen something for docs/reliability.md, and the table from what they saw.
reliability: $(VENV)/installed-test
	rm -rf outputs/reliability
	RELIABILITY_ROWS=outputs/reliability OMP_NUM_THREADS=1 $(BIN)/python -m pytest $$(grep -rl 'reliability(' tests --include='test_*.py') -m "faults or fuzz or slurm or not slow"
	$(BIN)/python scripts/reliability.py outputs/reliability

# Stamps: nothing is installed again until pyproject.toml changes.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[test]'
	touch $(VENV)/installed $@
