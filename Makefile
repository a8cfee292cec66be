# The targets are short on purpose: what they do lives in the programs they start.
# `make help` lists them; every path below the cache folder follows LLMR_CACHE.
SHELL := bash
.DEFAULT_GOAL := help
PY := .venv/bin/python

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup:  ## what the machine needs: Debian packages, Go, the Kubernetes binaries (7 minutes the first time)
	@bash tools/install-packages.sh
	@$(MAKE) -s venv
	@$(PY) -m e2e.cluster binaries

venv:  ## .venv with the pinned dependencies and the package itself, editable
	@bash tools/make-venv.sh

lock: venv  ## pin requirements.txt and requirements-dev.txt again, with hashes
	@bash tools/lock.sh

cluster: setup  ## a Kubernetes cluster on this machine; run it again to mend one
	@$(PY) -m e2e.cluster up

cluster-down: venv  ## stop the cluster; its objects stay for the next `make cluster`
	@$(PY) -m e2e.cluster down

cluster-reset: venv  ## stop the cluster and forget its objects; binaries and images stay
	@$(PY) -m e2e.cluster reset

cluster-status: venv  ## what of the cluster runs, and where its logs are
	@$(PY) -m e2e.cluster status

kubeconfig: venv  ## print the path of the cluster's kubeconfig: export KUBECONFIG=$(make -s kubeconfig)
	@$(PY) -m e2e.cluster kubeconfig

images: cluster  ## build the project's images and load those that the cluster lacks; prints their names
	@$(PY) -m e2e.cluster.images

demo: setup  ## a rollout of real vLLM to watch: set-up, two versions, every step, a rollback
	@$(PY) -m e2e.demo

bench: setup  ## every benchmark, raw results to bench/results/ (hours; name one: make bench ONLY=rollback_time)
	@$(PY) -m tools.benchmarks $(ONLY)

bench-analysis: venv  ## the canary gate by simulation: false rollbacks, delays, promotions (25 minutes on one core)
	@nice -n 10 $(PY) -m tools.benchmarks analysis_promotion analysis_detection analysis_false_rollbacks

check: venv  ## format, lint, types, layers, generated files and the quick tests
	@$(PY) -m tools.verify check

test: setup  ## every check and test, the end-to-end ones on the cluster included
	@$(PY) -m tools.verify test

chart: venv  ## write the chart's carried files and the goldens of its rendering anew
	@$(PY) -m tools.chart_files
	@GOLDEN=write $(PY) -m pytest -q tests/chart -m "not apiserver"

.PHONY: help setup venv lock cluster cluster-down cluster-reset cluster-status kubeconfig images demo bench bench-analysis check test chart
