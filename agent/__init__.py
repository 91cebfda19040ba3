"""The agent, in the six parts of LeCun's architecture.

perception: `encoder`; world model: `predictor` and `jepa`; cost: `cost` (intrinsic) and `critic`
(trainable); actor: `mpc`, with the planners; short-term memory: `memory`; configurator:
`configurator`.
"""
