"""The LightningModule of a run that learns from its own pictures: a forward pass over denoising steps, and the loss."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from mapolab.diffusion.errors import DenoisingTask, predict
from mapolab.diffusion.policy import DDIMPolicy, log_prob, step_kl
from mapolab.errors import Interrupted, UserError
from mapolab.models.encoder import Encoder
from mapolab.models.reference import Reference
from mapolab.models.trained import TrainedModel
from mapolab.runs import RunFolder
from mapolab.training.base_module import BaseModule
from mapolab.training.online.advantages import PromptStatistics
from mapolab.training.online.drawing import Conditions, Predict, draw
from mapolab.training.online.prompts import prompt_at
from mapolab.training.online.rewards import Rewards
from mapolab.training.online.sharing import share_round
from mapolab.training.online.store import Rollout, RolloutFolder, Share
from mapolab.training.resume import step_of

KEPT, REWARDED_BY = "rewards_by_prompt", "rewarded_by"  # in a checkpoint


class PolicyModule(BaseModule):
    """Draws a round of pictures, rewards them, and trains on their denoising steps until the next round begins.

    rollout: that block of the config. prompts: all that may be drawn. resolution: of the pictures, pixels.
    empty_prompt: embeddings of no prompt; None: zeros. folder: of the run.
    """

    def __init__(
        self,
        model: TrainedModel,
        scheduler: DDPMScheduler,
        objective: Any,
        seed: int,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        rollout: dict[str, Any],
        prompts: list[str],
        resolution: int,
        encoder: Encoder,
        folder: Path,
        reference: Reference | None = None,
        empty_prompt: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__(model, scheduler, objective, seed, optimizer, schedule, reference, encoder)
        self.settings, self.prompts, self.resolution = rollout, prompts, resolution
        self.empty_prompt = empty_prompt
        self.policy = DDIMPolicy.of(scheduler, rollout["steps"], rollout["eta"])
        self.statistics = PromptStatistics(rollout["per_prompt_buffer"], rollout["per_prompt_minimum"])
        self.rollouts = RolloutFolder(folder / "rollouts", RunFolder(folder).identity)
        self.rollout: Rollout | None = None
        self.conditions: Conditions | None = None
        self.rewards: Rewards | None = None
        self.rewarded_by: dict[str, str] | None = None  # before the restart

    def on_fit_start(self) -> None:
        """Also build the scorers, where the device is known. Raises UserError if they are not as they were."""
        super().on_fit_start()
        self.rewards = Rewards.of(self.settings, str(self.device))
        now, before = self.rewards.fingerprints, self.rewarded_by
        if changed := [name for name in now if before is not None and before.get(name) != now[name]]:
            raise UserError(
                f"The run was rewarded by another version of {changed[0]}: its weights, other files behind it or its "
                "code have changed since. Restore them, or start a new run with another output_dir."
            )

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Before a round's first forward pass: have its pictures.

        They are drawn with the weights as they are, at the round's first step; a run that continues in the middle of a
        round reads what it drew before.
        """
        number, step, rounds = batch["round"], self.trainer.global_step, self.trainer.datamodule.rounds
        if self.rollout is not None and self.rollout.number == number:
            return
        self.rollout = None
        many = self.settings["images_per_prompt"]
        prompts = {at: prompt_at(self.seed, at, self.prompts, many) for at in rounds.positions(number)}
        self.conditions = Conditions.of(
            list(prompts.values()),
            self.encoder,
            self.empty_prompt,
            self.resolution,
            self.settings["guidance_scale"],
            torch.float64 if self.is_double else torch.float32,
        )
        if not rounds.begins(step):
            self.rollout = self.rollouts.read_again(number, step)
            return
        if self.trainer.is_global_zero:
            self.rollouts.forget(number)  # another node must not take an older drawing for the new one
        share = self._draw(prompts)
        self.rollout = share_round(self.trainer, self.rollouts, number, share, prompts, self.rewards, self.statistics)
        self._remove_old_rounds()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The objective's loss of one denoising step of each picture, a scalar."""
        positions, steps = batch["positions"], torch.tensor(batch["steps"])
        prompts = self.rollout.prompts(positions)
        latents, following, old = (item.to(self.device) for item in self.rollout.transitions(positions, batch["steps"]))
        mean, std = self._gaussian(self._predict, prompts, steps, latents)
        kl = None
        if self.reference is not None:
            with torch.no_grad():
                expected, _ = self._gaussian(self.reference.predict, prompts, steps, latents)
            kl = step_kl(mean, expected, std)
        advantages = self.rollout.advantages(positions).to(self.device, old.dtype)
        result = self.objective(log_prob(following, mean, std), old, advantages, kl)
        result.logs |= self.rollout.logs
        self.note(batch_idx, positions, result)
        return result.loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEPT] = self.statistics.rewards
        checkpoint[REWARDED_BY] = self.rewards.fingerprints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.statistics.rewards = checkpoint[KEPT]
        self.rewarded_by = checkpoint.get(REWARDED_BY)  # earlier versions do not have it

    def _gaussian(
        self, predict_one: Predict, prompts: list[str], steps: Tensor, latents: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of where each step leads, by the trained UNet or the reference."""
        prediction = self.conditions.predict(predict_one, prompts, latents, self.policy.timesteps[steps])
        return self.policy.gaussian(steps, latents, prediction)

    def _predict(self, task: DenoisingTask) -> Tensor:
        return predict(self.unet, task)

    def _draw(self, prompts: dict[int, str]) -> Share:
        """This rank's share of a round, in groups as large as a forward pass of the update. prompts: by position.

        Groups are fixed, and a rank takes whole ones: what stands beside a picture, which can change a last bit, is the
        same on any number of ranks.
        """
        trainer, size = self.trainer, self.trainer.datamodule.batch_size
        positions, share = list(prompts), Share()
        for start in range(trainer.global_rank * size, len(positions), size * trainer.world_size):
            # A round can take longer than a scheduler waits after its signal.
            trainer.checkpoint_callback.leave_if_asked(trainer)
            group = {position: prompts[position] for position in positions[start : start + size]}
            if share.failure is None:
                try:
                    self._draw_group(group, share)
                except Interrupted:
                    raise
                except Exception as error:  # raised when all ranks have met: the others would wait for this one
                    share.failure = error
        return share

    def _draw_group(self, prompts: dict[int, str], share: Share) -> None:
        """Draw and reward these pictures. Raises RunError for one, or for a reward, that is not finite."""
        positions, texts = list(prompts), list(prompts.values())
        shape = self.encoder.latent_shape(self.resolution)
        # Not within the update's own autocast, which would keep the casts made here, without their gradients.
        with self.trainer.precision_plugin.train_step_context():
            drawn = draw(self._predict, self.policy, self.conditions, self.seed, positions, texts, shape)
        latents, log_probs = drawn
        pictures = [Image.fromarray(pixels.numpy()) for pixels in self.encoder.decode_latents(latents[:, -1])]
        share.add(positions, latents, log_probs, self.rewards.scores(pictures, texts))

    def _remove_old_rounds(self) -> None:
        """All but this one and those in whose middle a checkpoint stands."""
        self.trainer.strategy.checkpoint_io.finish()  # one that is being written counts
        if self.trainer.is_global_zero:
            rounds = self.trainer.datamodule.rounds
            steps = map(step_of, self.trainer.checkpoint_callback.checkpoints.all())
            self.rollouts.keep({self.rollout.number, *(rounds.round_of(at) for at in steps if not rounds.begins(at))})
