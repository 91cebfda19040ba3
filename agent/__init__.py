"""The agent, in the six parts of LeCun's architecture.

Perception: `encoder`; world model: `jepa`, `predictor`; cost: `cost`, `critic`, `ensemble`; actor:
`actor` (mode 1), `mpc` (mode 2); short-term memory: `memory`; configurator: `configurator`.
"""
