"""The LightningDataModule of a run that draws its own pictures: what is trained when, and no data."""

from typing import Any

from lightning.pytorch import LightningDataModule

from mapolab.config.rollout import check_samples, trained_steps
from mapolab.data.datamodule import check_layout
from mapolab.training.online.rounds import MicroSteps, Rounds


class RolloutDataModule(LightningDataModule):
    """Batches of positions and denoising steps; the module has what was drawn there.

    prompts: the hash that names them all. batch_size: pictures in a forward pass of one process. accumulation: such
    batches an optimizer step, each of them once for every trained denoising step.
    """

    def __init__(self, rollout: dict[str, Any], seed: int, batch_size: int, accumulation: int, prompts: str):
        super().__init__()
        self.settings, self.seed, self.prompts = rollout, seed, prompts
        self.batch_size, self.accumulation = batch_size, accumulation

    @property
    def samples_per_forward(self) -> int:
        """Pictures in one forward pass, over all ranks."""
        return self.batch_size * self.trainer.world_size

    @property
    def samples_per_step(self) -> int:
        """Pictures in one optimizer step, over all ranks."""
        return self.samples_per_forward * self.accumulation

    @property
    def rounds(self) -> Rounds:
        """What is trained when, with this number of ranks."""
        rollout = self.settings
        return Rounds(
            self.seed,
            rollout["samples"],
            self.samples_per_step,
            rollout["inner_epochs"],
            rollout["steps"],
            trained_steps(rollout),
        )

    def setup(self, stage: str) -> None:
        """Raises UserError where a round is not whole optimizer steps with this number of ranks."""
        check_samples(self.settings["samples"], self.samples_per_step)

    def train_dataloader(self) -> MicroSteps:
        trainer = self.trainer
        return MicroSteps(
            self.rounds,
            self.batch_size,
            done=trainer.global_step,
            total=trainer.max_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def state_dict(self) -> dict[str, Any]:
        """What must be the same when the run goes on; where it stands is the number of its optimizer steps."""
        return self._layout()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises UserError if prompts or batches are not as they were."""
        check_layout(state_dict, self._layout())

    def _layout(self) -> dict[str, Any]:
        return {"prompts": self.prompts, "samples_per_step": self.samples_per_step}
