"""What is put over the trainer's remote worker: an env of its own, faults as masked samples, the final turn kept.

The trainer's worker sends everything through ``_post``; that is where this one answers instead. How messages become
tokens stays the trainer's.
"""

import base64
import io
import logging
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from osworld_contract.faults import Fault, FaultError
from osworld_contract.wire import EnvReply, ImageItem, Message, TextItem
from osworld_env.arpo.plan import env_url
from osworld_env.client import EnvClient
from osworld_env.errors import TrainerMismatchError

_logger = logging.getLogger(__name__)

NO_LABEL: Final = -100
"""A token that is not trained on. Source: torch's ``ignore_index``, which the trainer's labels follow."""

BLANK_PX: Final = (56, 56)
"""Size of the picture of an episode that never began: the smallest that the image processor takes (3136 pixels)."""

if TYPE_CHECKING:

    class _TrainersWorker:
        """The trainer's class as the type checker is to see it. The real one is known when the trainer is imported."""

        history_messages: list[dict[str, Any]]

        def __init__(self, *args: Any) -> None: ...
        def reset(self, task_config: dict[str, Any]) -> dict[str, Any]: ...
        def step(self, prediction: str) -> dict[str, Any]: ...
        def process_message(self, message: list[dict[str, Any]]) -> None: ...
        def get_train_dict(self) -> dict[str, Any]: ...
else:
    _TrainersWorker = object


class FaultMasking(_TrainersWorker):
    """Goes before the trainer's own worker in the method resolution order; worker i is env i of the router."""

    def __init__(
        self, worker_idx: int, max_steps: int, config: Any, remote_server_url: str, *args: Any, **kwargs: Any
    ) -> None:
        url = env_url(remote_server_url, worker_idx)
        super().__init__(worker_idx, max_steps, config, url, *args, **kwargs)
        self._env_idx = worker_idx
        self._client = EnvClient(url)
        self._messages: list[Message] = []
        self._fault: Fault | None = None
        self._masked = 0

    def reset(self, task_config: dict[str, Any]) -> dict[str, Any]:
        """Begin an episode. One that cannot begin is played blank to its first step: the trainer can take no other."""
        self._fault = None
        self._messages = []
        return super().reset(task_config)

    def step(self, prediction: str) -> dict[str, Any]:
        """Step; the last prediction of an episode, which the reply leaves out, goes into the sample as well."""
        reply = super().step(prediction)
        if reply["obs_messages"] is None and self._fault is None:
            try:
                history = self._client.history(since=len(self._messages)).history_messages
            except FaultError as error:
                self._mask(error.fault)
                return reply
            turn = [message.model_dump() for message in history if message.role == "assistant"]
            self.history_messages = [*self.history_messages, *turn]
            self.process_message(turn)
        return reply

    def get_train_dict(self) -> dict[str, Any]:
        """Return the sample; a masked one has no token to be trained on."""
        sample = super().get_train_dict()
        if self._fault is not None:
            sample["labels"][...] = NO_LABEL
        return sample

    def take_masked(self) -> int:
        """Return how many episodes were masked since this was last asked."""
        masked, self._masked = self._masked, 0
        return masked

    def _post(self, path: str, json_body: dict[str, Any], timeout: float | None = None) -> Any:
        """Answer the call that the trainer's worker would send to `path`. Time-outs are `EnvClient`'s, the same."""
        match path:
            case "/env/reset":
                return self._reset(json_body["task_config"])
            case "/env/step":
                return self._step(json_body["prediction"])
            case "/env/evaluate":
                return self._evaluate()
        raise TrainerMismatchError(
            f"the trainer's worker calls {path} (timeout {timeout}); accepted: /env/reset, /env/step, /env/evaluate"
        )

    def _reset(self, task: dict[str, Any]) -> dict[str, Any]:
        try:
            reply = self._client.reset(task)
        except FaultError as error:
            self._mask(error.fault)
            reply = EnvReply(env_idx=self._env_idx, obs_messages=_blank(task), is_done=False, format_reward=0.0)
        return self._observed(reply)

    def _step(self, prediction: str) -> dict[str, Any]:
        if self._fault is None:
            try:
                return self._observed(self._client.step(prediction, since=len(self._messages)))
            except FaultError as error:
                self._mask(error.fault)
        return {"obs_messages": None, "is_done": True, "format_reward": 0.0}

    def _evaluate(self) -> float:
        if self._fault is None:
            try:
                return self._client.evaluate()
            except FaultError as error:
                self._mask(error.fault)
        return 0.0  # a number is what the trainer needs; masking and `_validate` keep it out of every mean that counts

    def _observed(self, reply: EnvReply) -> dict[str, Any]:
        """Add what is new in `reply` to the conversation, and return the reply with all of it, as the v1 wire does."""
        body = reply.model_dump(exclude={"fault", "first"})
        if reply.obs_messages is not None:
            self._messages += reply.obs_messages
            body["obs_messages"] = [message.model_dump() for message in self._messages]
        return body

    def _mask(self, fault: Fault) -> None:
        self._fault = fault
        self._masked += 1
        _logger.warning(
            "env %d: %s/%s: %s; this episode is left out", self._env_idx, fault.kind, fault.reason, fault.message
        )


def _blank(task: dict[str, Any]) -> list[Message]:
    """Return three messages in the form of a reset's, with an empty picture."""
    picture = io.BytesIO()
    Image.new("RGB", BLANK_PX).save(picture, "PNG")
    encoded = base64.b64encode(picture.getvalue()).decode("ascii")
    return [
        Message(role="system", content=[TextItem(text="The desktop could not be had.")]),
        Message(role="user", content=[TextItem(text=str(task.get("instruction", "")))]),
        Message(role="user", content=[ImageItem(b64=encoded)]),
    ]
