"""The joint-embedding predictive world model: encode observations, predict embeddings."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor, nn

from mujepa.agent.encoder import EncoderConfig, Observes, make_encoder
from mujepa.agent.memory import Memory
from mujepa.agent.predictor import Predictor, PredictorConfig
from mujepa.runtime.settings import settings


@settings
class JEPAConfig:
    """The world model: its encoder and its predictor."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)


class JEPA(nn.Module):
    """Encoder and predictor (LeCun 2022; trained end to end as in LeWorldModel, arXiv 2603.19312).

    Letters: B batch, N candidates, H horizon, T time, K history, D embedding, A action.
    """

    def __init__(
        self, config: JEPAConfig, observation_shape: tuple[int, ...], action_size: int
    ) -> None:
        super().__init__()
        self.history = config.predictor.history
        self.dim = config.encoder.dim
        self.action_size = action_size
        self.observation_shape = observation_shape
        self.observes: Observes = config.encoder.observes
        self.encoder = make_encoder(config.encoder, observation_shape)
        self.predictor = Predictor(config.predictor, self.dim, action_size)

    def encode(self, observations: Tensor) -> Tensor:
        """Return embeddings of observations, (B, ...) -> (B, D); `ValueError` for other shapes."""
        if tuple(observations.shape[1:]) != self.observation_shape:
            raise ValueError(
                f"observations of shape {tuple(observations.shape[1:])}, "
                f"the model reads {self.observation_shape}"
            )
        return self.encoder(observations)

    def encode_windows(self, observations: Tensor) -> Tensor:
        """Return embeddings of windows, (B, T, ...) -> (B, T, D)."""
        return self.encode(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])

    def unroll(self, memory: Memory, actions: Tensor) -> Tensor:
        """Predict open loop, feeding predictions back, (B, H, A) -> embeddings (B, H, D)."""
        if not torch.is_grad_enabled():
            return self.predictor.unroll(memory, actions)
        predictions = []
        for action in actions.unbind(dim=1):
            embedding = self.predictor(memory, action)
            memory = memory.push(action, embedding)
            predictions.append(embedding)
        return torch.stack(predictions, dim=1)

    def rollout(self, memory: Memory, actions: Tensor) -> Tensor:
        """Predict candidates (B, N, H, A) from a memory of B rows -> embeddings (B, N, H, D)."""
        predicted = self.unroll(memory.repeat(actions.shape[1]), actions.flatten(0, 1))
        return predicted.unflatten(0, actions.shape[:2])

    def surprise(self, memory: Memory, action: Tensor, embedding: Tensor) -> Tensor:
        """Return the error of the prediction of `embedding` (B, D), averaged over D -> (B,)."""
        return (self.predictor(memory, action) - embedding).square().mean(dim=-1)
