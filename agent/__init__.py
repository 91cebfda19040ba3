"""The agent, in the six parts of LeCun's architecture.

perception: `encoder`; world model: `predictor` and `jepa`; cost: `cost` (intrinsic), `critic`
(trainable) and `ensemble` (uncertainty); actor: `actor` (mode 1) and `mpc` with the planners (mode
2); short-term memory: `memory`; configurator: `configurator`.
"""
