"""L1: pure statistics: counts of each second in, evidence and verdicts out.

Theory of operation. Two arms serve the same users at the same time: the canary and a control
group of stable workers. For each second of arrivals and each latency threshold we know how many
requests of each arm exceeded it (``Cell``). Under the null hypothesis *the canary is not slower
than rho times stable at any quantile*, and given the second's pooled counts, the canary's
exceedances are hypergeometric or stochastically smaller; so any bet on more of them has an
expected pay-off of at most 1 (``evalue``). The product of pay-offs over time, averaged over bets
and start times, is an e-process (``eprocess``): the chance that it *ever* reaches 1/alpha is at
most alpha, however often one looks. That is why the operator may look every second for a day.

``noninferiority`` turns the bet round and proves that a canary is *no worse*, which promotion
requires. ``limit`` tests a hard limit by exact counts; ``ksband`` gives the anytime-valid
Kolmogorov-Smirnov band that reports show; ``budget`` splits the chance of a false rollback over
everything that one attempt looks at. Nothing here reads a clock, draws a random number or knows
Kubernetes.

``gate`` puts them together. A ``Stage`` is frozen when a step starts (``freeze_stage``, from a
``Baseline`` of stable); a ``Gate`` takes the seconds of both arms into a ``GateState``, which
survives a restart bit for bit, and ``judge`` says ROLL_BACK, FREEZE or GOOD, and whether the canary
is proven to be no worse.
"""
