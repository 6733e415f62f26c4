# make test        the tests                      (each target sets up the environment first)
# make reproduce   the notebooks that are out of date on PROFILE
#                  e.g. make reproduce PROFILE=photos REALQA_DATA=~/photos
# make report      the executed notebooks and the claims of PROFILE as web pages, runs/PROFILE/report/
# make lab         JupyterLab in notebooks/
# make notebooks   execute the notebooks on `mini` and write them back: what is committed
# make quality     ruff: lint and format check
#
# Another Python:            make setup PYTHON=python3.12
# An environment you have:   make test VENV=$CONDA_PREFIX
# Some notebooks only:       make reproduce ONLY=05,06
# Other seeds:               make reproduce SEEDS=0,1,2
# On a cluster:              make reproduce CLUSTER=slurm

PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= mini
ONLY    ?=
SEEDS   ?=
CLUSTER ?=

BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
SELECT  := $(if $(ONLY),--only $(ONLY))
HOW     := $(if $(SEEDS),--seeds $(SEEDS)) $(if $(CLUSTER),--cluster $(CLUSTER))
# The pip section of environment.yml, its comments dropped: one `name==version` a line.
PINS    := sed -n 's/^      - \([^ \#]*\).*/\1/p' environment.yml
RECENT  := import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is \
	needed, $(PYTHON) is %d.%d: try make setup PYTHON=python3.11" % v[:2])

.PHONY: setup requirements test reproduce report lab notebooks quality clean

setup: $(READY)

# The stamp: a second run finds it newer than both files and installs nothing.
$(READY): environment.yml pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -c '$(RECENT)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PINS) > $(VENV)/requirements.txt
	$(BIN)/pip install -r $(VENV)/requirements.txt
	$(BIN)/pip install --no-deps -e .
	@touch $@

requirements:
	@$(PINS)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

reproduce: $(READY)
	$(BIN)/realqa reproduce --profile $(PROFILE) $(SELECT) $(HOW)

report: $(READY)
	$(BIN)/realqa report --profile $(PROFILE)

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(READY)
	$(BIN)/realqa notebooks refresh $(SELECT)

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Leaves the environment and the tracked figures alone; checkpoints and predictions in runs/ go.
clean:
	rm -rf runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find realqa_utils tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
