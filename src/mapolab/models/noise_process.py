"""What a model says of the noise process that its UNet was trained with: read in one place, or refused by name.

It is said by scheduler_config.json and model_index.json, and by the metadata and marker tensors of a single file.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from mapolab.errors import UserError
from mapolab.texts import brief

PREDICTION_TYPES = ("epsilon", "v_prediction")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# diffusers' schedulers that add noise by betas, each with the spacing of its steps where its config names none.
SPACINGS = {
    **dict.fromkeys(
        ("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler"), "leading"
    ),
    **dict.fromkeys(
        (
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "LMSDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DPMSolverSDEScheduler",
            "DEISMultistepScheduler",
            "UniPCMultistepScheduler",
            "SASolverScheduler",
        ),
        "linspace",
    ),
}
# Settings that make one of these classes another process: key -> (its values there, what it is).
ELSEWHERE = {
    "use_flow_sigmas": ((True,), "flow matching"),
    "timestep_type": (("continuous",), "EDM's continuous noise levels"),
    "variance_type": (("learned", "learned_range"), "a variance that the UNet predicts, too"),
}
MOST_TIMESTEPS = 100_000  # SDXL has 1000; each costs memory
PROCESS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")
# How metadata words what a UNet predicts.
PREDICTIONS = {
    **dict.fromkeys(("epsilon", "eps", "noise"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "v_pred", "v-pred", "vpred", "velocity"), "v_prediction"),
}
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def scheduler_settings(
    name: str, index: dict[str, Any], config: dict[str, Any], prediction_type: str, zero_terminal_snr: Any
) -> dict[str, Any]:
    """The scheduler's config, completed, with the settings of conf/diffusion.

    name: the model's. index: its model_index.json, whose class diffusers loads. Raises UserError for a noise process
    that is not one of betas, and where model and settings contradict.
    """
    config = config | _check_process(name, index, config)
    stated = config.get("prediction_type") or ("epsilon" if prediction_type == "auto" else prediction_type)
    if prediction_type not in ("auto", stated):
        raise UserError(
            f"diffusion.prediction_type={prediction_type}, but the model's scheduler says {stated}: its UNet was "
            "trained to predict that. Set diffusion.prediction_type=auto, or correct what the model says "
            "(scheduler_config.json, or a single file's metadata)."
        )
    if stated not in PREDICTION_TYPES:
        raise UserError(
            f"The model's scheduler says prediction_type={brief(repr(stated))}; mapolab trains models that predict the "
            "noise (epsilon) or the velocity (v_prediction). Choose another model, or correct scheduler_config.json."
        )
    zero = bool(config.get("rescale_betas_zero_snr")) if zero_terminal_snr == "auto" else zero_terminal_snr
    if zero and stated == "epsilon":
        raise UserError(
            "A zero terminal SNR needs a model that predicts the velocity: at the last timestep there is only noise, "
            "which a model that predicts noise could copy. Set diffusion.zero_terminal_snr=false."
        )
    return config | {"prediction_type": stated, "rescale_betas_zero_snr": zero}


def noise_process(settings: dict[str, Any]) -> dict[str, Any]:
    """Of `scheduler_settings`, what decides how noise is added and what is predicted: arguments of any scheduler."""
    given = {key: settings[key] for key in PROCESS if settings.get(key) is not None}
    return given | {key: settings[key] for key in ("prediction_type", "rescale_betas_zero_snr")}


def stated_in_file(name: str, tensors: Collection[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """`prediction_type` and `rescale_betas_zero_snr`, as a scheduler's config has them, where a single file says them.

    tensors: their names. Raises UserError for words that are not known, and for contradictions.
    """
    metadata = {key: str(value).strip() for key, value in metadata.items()}
    predicts: dict[str, str] = {"the tensor v_pred": "v_prediction"} if "v_pred" in tensors else {}
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        if value := metadata.get(key):
            if value.lower() not in PREDICTIONS:
                raise UserError(
                    f"model.pretrained={name} says {key}={brief(value)} in its metadata; mapolab trains models that "
                    "predict the noise (epsilon) or the velocity (v). Give another model, or correct its metadata."
                )
            predicts[f"{key}={value}"] = PREDICTIONS[value.lower()]
    if (velocity := TRUTHS.get(metadata.get("ss_v_parameterization", "").lower())) is not None:
        said = f"ss_v_parameterization={metadata['ss_v_parameterization']}"
        predicts[said] = "v_prediction" if velocity else "epsilon"
    zero = {"the tensor ztsnr": True} if "ztsnr" in tensors else {}
    if (value := TRUTHS.get(metadata.get("ss_zero_terminal_snr", "").lower())) is not None:
        zero[f"ss_zero_terminal_snr={metadata['ss_zero_terminal_snr']}"] = value
    for told in (predicts, zero):
        if len(set(told.values())) > 1:
            raise UserError(
                f"model.pretrained={name} contradicts itself: it has {' and '.join(told)}. Write the file anew with "
                "the one that is true."
            )
    stated = {"prediction_type": predicts, "rescale_betas_zero_snr": zero}
    return {key: next(iter(told.values())) for key, told in stated.items() if told}


def fault_of_file(tensors: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """What a single file says that makes it no SDXL base with noise by betas; None if it says nothing of the kind."""
    if marker := min((name for name in tensors if name.startswith("edm_")), default=None):
        return (
            f"holds {marker}, so its noise process is EDM's, as that of Playground v2.5 and CosXL, which mapolab does "
            "not train"
        )
    architecture = metadata.get("modelspec.architecture", "").strip()
    is_base = re.match(r"(stable-diffusion-xl|sdxl)", architecture, re.IGNORECASE)
    if architecture and (not is_base or re.search(r"refiner|edit|inpaint|/", architecture, re.IGNORECASE)):
        return f"says modelspec.architecture={brief(architecture)} in its metadata, which is no SDXL base"
    return None


def _check_process(name: str, index: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The defaults of what the config leaves out. Raises UserError for another process than one of betas."""
    classes = [kind for kind in (_listed(index), config.get("_class_name")) if kind]
    for kind in classes:
        if not isinstance(kind, str) or kind not in SPACINGS:
            raise _foreign(name, f"has the scheduler {brief(kind)}{_family(brief(kind))}")
    for key, (values, process) in ELSEWHERE.items():
        if config.get(key) in values:
            raise _foreign(name, f"has {key}={brief(config[key])} in its scheduler_config.json, {process}")
    if config.get("sigma_data") is not None:
        raise _foreign(name, "has sigma_data in its scheduler_config.json, a setting of EDM")
    if type(zero := config.get("rescale_betas_zero_snr") or False) is not bool:
        raise _unusable(name, f"rescale_betas_zero_snr is {brief(zero)}, not true or false")
    schedule, trained, count = (config.get(key) for key in ("beta_schedule", "trained_betas", "num_train_timesteps"))
    count = 1000 if count is None else count  # as all classes have it
    if type(count) is not int or not 1 <= count <= MOST_TIMESTEPS:
        raise _unusable(name, f"num_train_timesteps is {brief(repr(count))}, not a number of timesteps")
    if trained is not None:
        numbers = isinstance(trained, list) and all(_is_number(beta) and 0 < beta <= 1 for beta in trained)
        if not numbers or len(trained) != count:
            raise _unusable(name, f"trained_betas must be {count} numbers above 0 and at most 1, one for each timestep")
    elif not isinstance(schedule, str) or schedule not in BETA_SCHEDULES:
        said = "has no beta_schedule" if schedule is None else f"beta_schedule is {brief(repr(schedule))}"
        raise _unusable(name, f"{said}; it is one of {', '.join(BETA_SCHEDULES)}")
    elif schedule != "squaredcos_cap_v2":
        ends = [config.get(key) for key in ("beta_start", "beta_end")]
        if not (all(map(_is_number, ends)) and 0 < ends[0] <= ends[1] < 1):
            told = " and ".join(map(brief, ends))
            raise _unusable(name, f"beta_start and beta_end are {told}, not two numbers from 0 to 1")
    spacing = config.get("timestep_spacing") or SPACINGS[(classes or ["EulerDiscreteScheduler"])[0]]
    if spacing not in ("leading", "linspace", "trailing"):
        raise _unusable(name, f"timestep_spacing is {brief(repr(spacing))}; it is one of leading, linspace, trailing")
    offset = config.get("steps_offset") or 0
    if type(offset) is not int or not 0 <= offset < count:
        raise _unusable(name, f"steps_offset is {brief(repr(offset))}, not a number of timesteps")
    return {"num_train_timesteps": count, "timestep_spacing": spacing, "steps_offset": offset}


def _listed(index: dict[str, Any]) -> str | None:
    """The scheduler's class in model_index.json."""
    listed = index.get("scheduler")
    return listed[1] if isinstance(listed, list) and len(listed) == 2 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _family(kind: str) -> str:
    """Who has it, as far as that is known."""
    known = {
        "EDM": ", EDM's process (Playground v2.5, CosXL)",
        "Flow": ", flow matching",
        "LCM": ", of a model distilled to a few steps",
        "TCD": ", of a model distilled to a few steps",
    }
    return next((words for part, words in known.items() if part in kind), "")


def _foreign(name: str, what: str) -> UserError:
    return UserError(
        f"The model {name} {what}. mapolab trains and draws with SDXL's noise process, one of betas, as "
        "EulerDiscreteScheduler and DDIMScheduler have it. Give a model that was trained with it; if this one "
        "was, correct its scheduler/scheduler_config.json and model_index.json."
    )


def _unusable(name: str, what: str) -> UserError:
    return UserError(
        f"The scheduler_config.json of the model {name} does not say how its UNet was trained: {what}. Correct "
        "scheduler/scheduler_config.json. SDXL has beta_schedule scaled_linear from beta_start 0.00085 to beta_end "
        "0.012 in 1000 timesteps."
    )
