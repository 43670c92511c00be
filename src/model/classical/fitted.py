"""Modules whose parameters are fitted in closed form or by an optimiser of their own, and kept as buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Fitted(nn.Module):
    """A module whose buffers get their shapes from the data that it is fitted to, or from the state that it loads.

    fitted: names of the buffers, which are empty until then.
    """

    fitted: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in self.fitted:
            self.register_buffer(name, torch.empty(0))

    def set_fitted(self, **values: Tensor) -> None:
        """Set buffers, as float32."""
        for name, value in values.items():
            setattr(self, name, value.float().contiguous())

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments) -> None:
        for name in self.fitted:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and every BLAS to one thread: with more, sums are split elsewhere and their last bits differ."""
    from threadpoolctl import threadpool_limits

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(num_threads)
