"""L3: what is measured of the workers, and how it reaches the gate.

    worker tap --page each second--> port/tap --Page--> timeline --seconds--> the gate (analysis)

``page`` reads what a worker answers, strictly; ``timeline`` puts the pages of many workers, each on
its own clock, into seconds that count every request once or not at all; ``baseline`` adds up what
stable workers did before a stage; ``load`` compares what the two arms carry; ``record`` is the form
in which evidence is stored. Nothing here decides about a rollout.
"""
