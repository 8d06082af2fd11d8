"""How episodes end, counted: faults of whatever goes wrong, results, seconds of a reset's stages."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_contract.wire import Phase
from osworld_envpod.causes import by_cause
from osworld_envpod.episode import Episode
from osworld_envpod.metrics import EnvMetrics

logger = logging.getLogger(__name__)


class Ledger:
    """Counts episodes and faults."""

    def __init__(self, metrics: EnvMetrics, lost_to: Callable[[], FaultReason | None]) -> None:
        """`lost_to` says why the desktop was lost, where that is known; see `Desktop.lost_to`."""
        self._metrics = metrics
        self._lost_to = lost_to

    def note_fault(self, episode: Episode, fault: Fault, operation: str | None) -> Fault:
        """End `episode` with `fault`, named by its cause: counted, logged once, kept for ``/state``, returned."""
        fault = by_cause(fault, self._lost_to())
        fault = fault if fault.operation or operation is None else fault.model_copy(update={"operation": operation})
        episode.fail(fault)
        if episode.is_canary:
            logger.info("The canary ends: %s/%s: %s", fault.kind, fault.reason, fault.message)
            return fault
        self._metrics.faults.labels(fault.kind, fault.reason, operation or "none").inc()
        self.count(episode, "fault")
        prefix = {"evaluate": "Evaluation error", "reset": "Env reset exception"}.get(operation or "", "Fault")
        logger.error("%s: %s/%s: %s %s", prefix, fault.kind, fault.reason, fault.message, fault.evidence or "")
        return fault

    def note_unscored(self, episode: Episode, fault: Fault) -> bool:
        """Count and log `fault`, which keeps the score of `episode` back and does not end it.

        Once for each last call: a client may ask again and again, and get the reply and the score after all.

        Returns:
            Whether this is the first time. Never where the episode has a score or a fault: it has an end already.
        """
        is_open = episode.phase in {Phase.RUNNING, Phase.DONE, Phase.EVALUATING} and episode.fault is None
        if not is_open or episode.unscored_after == episode.predictions:
            return False
        episode.unscored_after = episode.predictions
        self._metrics.faults.labels(fault.kind, fault.reason, "evaluate").inc()
        logger.warning("Evaluation refused: %s/%s: %s", fault.kind, fault.reason, fault.message)
        return True

    def count(self, episode: Episode, result: str) -> None:
        """Count the end of `episode`, once: an evaluate that is tried again and works is no second episode."""
        if not (episode.is_counted or episode.is_canary):
            episode.is_counted = True
            self._metrics.episodes.labels(result).inc()
            if result == "scored":
                self._metrics.episode_steps.observe(episode.actions_done)

    @contextlib.contextmanager
    def faults_of(self, episode: Episode, operation: str) -> Iterator[None]:
        """End `episode` with the fault of whatever goes wrong inside, a deadline and a cancellation included."""
        try:
            yield
        except FaultError as error:
            noted = self.note_fault(episode, error.fault, operation)
            if noted.reason is error.fault.reason:
                raise
            raise FaultError(noted) from error
        except (TimeoutError, asyncio.CancelledError) as error:
            reason = FaultReason.EVALUATE_TIMEOUT if operation == "evaluate" else FaultReason.OPERATION_TIMEOUT
            noted = self.note_fault(episode, fault_error(reason, operation=operation).fault, operation)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise FaultError(noted) from error
        except Exception as error:
            logger.exception("A defect in %s", operation)
            broken = fault_error(FaultReason.INTERNAL, f"{type(error).__name__} in {operation}", operation=operation)
            self.note_fault(episode, broken.fault, operation)
            raise broken from error

    @contextlib.contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Observe the seconds of one stage of a reset that ends well."""
        began = time.monotonic()
        yield
        self._metrics.reset_stage_seconds.labels(stage).observe(time.monotonic() - began)
