"""Several LoRA adapters as one, from their folders alone: their factors side by side, and on request the best of a smaller rank.

sum_i s_i B_i A_i = [s_1 B_1 | s_2 B_2 | ...] [A_1; A_2; ...], exactly. Every module gets the same rank, the rest of it zeros, and a scaling of 1, so
that a tool that knows no patterns reads the same change. The best approximation of rank r, in the Frobenius norm, is the truncated SVD (Eckart and
Young 1936), here of the product of two thin matrices, by their QR decompositions.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import Tensor

from peft_unlearn.model import saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import same_model

logger = logging.getLogger(__name__)

REPORT = "combine.json"
# Of a factor's name in an adapter's file: what ends the first one, and the second one beside it.
LINEAR = ".lora_A.weight"
PAIRS = {LINEAR: ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}


@dataclass(frozen=True)
class Factors:
    """A module's change B A, the scaling in B: `a` (experts, r, in) and `b` (experts, out, r), fp32; a layer that is no mixture has one expert."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[1]


@dataclass(frozen=True)
class Energy:
    """The squared Frobenius norm of a module's change, and how much of it was kept."""

    total: float
    kept: float

    @property
    def share(self) -> float:
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True)
class Lora:
    """An adapter: its config, the change of each module by its name and its factors' ends in the file, and all other tensors of the file."""

    config: LoraConfig
    factors: dict[tuple[str, str], Factors]
    others: dict[str, Tensor]


def read(folder: Path) -> Lora:
    """The adapter in a folder.

    Raises:
        UserError: what `saved` refuses, or a change that is no sum of products of thin matrices.
    """
    config, tensors = saved.config_of(str(folder), key="adapters"), saved.without_copies(saved.weights_of(str(folder), key="adapters"))
    for key, form in (("use_dora", "DoRA"), ("lora_bias", "a bias of its factors")):
        if getattr(config, key):
            raise UserError(
                f"adapters: {folder} has {form}, which no product of two factors holds; use `peft-unlearn train` with adapter_mode merge."
            )
    if config.target_parameters and config.rank_pattern:
        raise UserError(
            f"adapters: {folder} has experts of several ranks (rank_pattern), which cannot be combined; load the adapters together."
        )
    factors = {}
    for name in [name for name in tensors if name.endswith(tuple(PAIRS))]:
        end = next(end for end in PAIRS if name.endswith(end))
        stem = name.removesuffix(end)
        if tensors[name].dim() != 2 or stem + PAIRS[end] not in tensors:
            raise UserError(f"adapters: {folder} has no pair of matrices for {stem.removeprefix(saved.PREFIX)}; save the adapter again.")
        factors[stem, end] = _factors(
            config, stem.removeprefix(saved.PREFIX), tensors.pop(name).float(), tensors.pop(stem + PAIRS[end]).float()
        )
    if strange := next((name for name in tensors if ".lora_" in name), None):
        raise UserError(f"adapters: {folder} has a tensor {strange}, which is no factor of LoRA; load the adapters together.")
    return Lora(config, factors, tensors)


def _factors(config: LoraConfig, module: str, a: Tensor, b: Tensor) -> Factors:
    """A module's factors as they stand in its file, (experts x r, in) and (out, r x experts), with its scaling."""
    plain = module.replace(".base_layer", "")
    owners = [name.rpartition(".")[0] for name in config.target_parameters or ()]
    rank = config.r if any(f".{plain}".endswith(f".{owner}") for owner in owners) else len(a)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    scaling = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    experts = len(a) // rank
    return Factors(a.view(experts, rank, -1), scaling * b.view(len(b), rank, experts).permute(2, 0, 1))


def combined(adapters: Mapping[str, Lora]) -> Lora:
    """The sum of several adapters, by what they are called, as one of the sum of their ranks.

    Raises:
        UserError: adapters of different bases, or two that change a module so that the sum is no LoRA.
    """
    _check(adapters)
    factors: dict[tuple[str, str], Factors] = {}
    others: dict[str, Tensor] = {}
    for name, one in adapters.items():
        for module, found in one.factors.items():
            below = factors.get(module)
            if below is not None and (below.a.shape[::2], below.b.shape[:2]) != (found.a.shape[::2], found.b.shape[:2]):
                raise UserError(
                    f"adapters: {name} has another shape of {module[0].removeprefix(saved.PREFIX)} than those before; give ones of one base."
                )
            pairs = [found] if below is None else [below, found]
            factors[module] = Factors(torch.cat([pair.a for pair in pairs], 1), torch.cat([pair.b for pair in pairs], 2))
        for tensor, value in one.others.items():
            if tensor in others and not torch.equal(others[tensor], value):
                raise UserError(
                    f"adapters: {name} and one before hold different {tensor.removeprefix(saved.PREFIX)}; merge the first one instead."
                )
            others[tensor] = value
    return Lora(_config([one.config for one in adapters.values()], factors), factors, others)


def _check(adapters: Mapping[str, Lora]) -> None:
    bases = {name: one.config.base_model_name_or_path for name, one in adapters.items() if one.config.base_model_name_or_path}
    first = next(iter(bases.items()), ("", ""))
    for name, base in bases.items():
        if not same_model(base, first[1]):
            logger.warning("Warning: %s says that its base is %s, and %s that it is %s.", name, base, *first)
    if len({tuple(one.config.target_parameters or ()) for one in adapters.values()} - {()}) > 1:
        raise UserError("adapters: they change different experts (target_parameters), which PEFT cannot load together; give others.")
    wholes = {name: _whole(one.config) for name, one in adapters.items()}
    for name, whole in wholes.items():
        for other, one in adapters.items():
            twice = whole & wholes[other]
            modules = {stem.removeprefix(saved.PREFIX) for stem, _ in one.factors}
            twice |= {part for part in whole if any(f".{part}." in f".{module}." for module in modules)}
            if other != name and twice:
                raise UserError(
                    f"adapters: {name} holds {min(twice)} as a whole and {other} changes it as well, which is no LoRA; merge {name} instead."
                )


def _whole(config: LoraConfig) -> set[str]:
    """The modules that an adapter has in place of the base's own, or has rows of."""
    rows = config.trainable_token_indices or {}
    return {*(config.modules_to_save or ()), *(rows if isinstance(rows, dict) else ["embed_tokens"])}


def _config(configs: Sequence[LoraConfig], factors: Mapping[tuple[str, str], Factors]) -> LoraConfig:
    """That of the sum: the base's name is that of the adapter that was trained last; modules stand one by one where no list has them all."""
    last = next((one for one in reversed(configs) if one.base_model_name_or_path), configs[-1])
    listed = all(not isinstance(one.target_modules, str | None) for one in configs)
    listed &= not any(one.layers_to_transform or one.exclude_modules for one in configs)
    owners = {name.rpartition(".")[0] for one in configs for name in one.target_parameters or ()}
    modules = {stem.removeprefix(saved.PREFIX).replace(".base_layer", "") for stem, _ in factors}
    modules = {name for name in modules if not any(f".{name}".endswith(f".{owner}") for owner in owners)}
    rank = max((pair.rank for pair in factors.values()), default=1)
    return LoraConfig(
        task_type=configs[0].task_type,
        base_model_name_or_path=last.base_model_name_or_path,
        revision=last.revision,
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        target_modules={name for one in configs for name in one.target_modules} if listed else modules,
        target_parameters=next((one.target_parameters for one in configs if one.target_parameters), None),
        modules_to_save=sorted({name for one in configs for name in one.modules_to_save or ()}) or None,
        trainable_token_indices=next((one.trainable_token_indices for one in configs if one.trainable_token_indices), None),
        fan_in_fan_out=any(one.fan_in_fan_out for one in configs),
    )


def compressed(adapter: Lora, rank: int) -> tuple[Lora, dict[str, Energy]]:
    """The adapter of rank `rank` that is nearest to this one, module by module, and the energy that each module keeps."""
    found = {module: truncated(pair, rank) for module, pair in adapter.factors.items()}
    factors = {module: pair for module, (pair, _) in found.items()}
    config = _config([adapter.config], factors)
    return Lora(config, factors, adapter.others), {stem.removeprefix(saved.PREFIX): energy for (stem, _), (_, energy) in found.items()}


def rank_for(adapter: Lora, energy: float) -> int:
    """The smallest rank at which every module keeps this share of its energy."""
    return max((_rank_for(pair, energy) for pair in adapter.factors.values()), default=1)


def _rank_for(pair: Factors, energy: float) -> int:
    kept = _decomposed(pair)[2].square().sum(0).cumsum(0)
    return int((kept < energy * kept[-1]).sum()) + 1


def truncated(pair: Factors, rank: int) -> tuple[Factors, Energy]:
    """The nearest change of rank `rank`, its singular values shared by both factors. One of that rank or less is left as it is."""
    out, u, values, v, into = _decomposed(pair)
    total = values.square().sum().item()
    if pair.rank <= rank:
        return pair, Energy(total, total)
    roots = values[:, :rank].sqrt()
    a, b = roots[:, :, None] * (v[:, :rank] @ into.mT), (out @ u[:, :, :rank]) * roots[:, None, :]
    return Factors(a.float(), b.float()), Energy(total, values[:, :rank].square().sum().item())


def _decomposed(pair: Factors) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The change as out U diag(values) V into^T, fp64: `values` (experts, r) are its singular values."""
    out, inner_b = torch.linalg.qr(pair.b.double())
    into, inner_a = torch.linalg.qr(pair.a.double().mT)
    u, values, v = torch.linalg.svd(inner_b @ inner_a.mT, full_matrices=False)
    return out, u, values, v, into


def directions(adapter: Lora, most: float = 0.5) -> dict[str, Tensor]:
    """What each linear layer's change reads of its input: orthonormal rows (k, in), the largest first, at most this share of all there are."""
    found = {}
    for (stem, end), pair in adapter.factors.items():
        if end == LINEAR and len(pair.a) == 1:
            near, _ = truncated(pair, min(pair.rank, int(most * pair.a.shape[2])))
            into, _ = torch.linalg.qr(near.a[0].double().T)
            found[stem.removeprefix(saved.PREFIX)] = into.T.float()
    return found


def size(adapter: Lora) -> int:
    """Bytes of the file that `write` writes."""
    columns = sum(pair.a.shape[0] * (pair.a.shape[2] + pair.b.shape[1]) for pair in adapter.factors.values())
    return int(4 * adapter.config.r * columns) + sum(tensor.nbytes for tensor in adapter.others.values())


def write(adapter: Lora, folder: Path) -> None:
    """Write config and tensors as PEFT does, every module's factors filled with zeros to the config's rank."""
    tensors = dict(adapter.others)
    for (stem, end), pair in adapter.factors.items():
        more = adapter.config.r - pair.rank
        a, b = torch.nn.functional.pad(pair.a, (0, 0, 0, more)), torch.nn.functional.pad(pair.b, (0, more))
        tensors[stem + end] = a.reshape(-1, a.shape[-1]).contiguous()
        tensors[stem + PAIRS[end]] = b.permute(1, 2, 0).reshape(b.shape[1], -1).contiguous()
    adapter.config.save_pretrained(str(folder))
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def share(energies: Mapping[str, Energy]) -> float:
    """The share of all energy that was kept."""
    return Energy(sum(one.total for one in energies.values()), sum(one.kept for one in energies.values())).share


def write_report(folder: Path, adapters: Sequence[str], rank: int, energies: Mapping[str, Energy]) -> None:
    """Write what the adapter is made of, and the share of the energy that each module keeps."""
    facts = {
        "adapters": list(adapters),
        "rank": rank,
        "energy": share(energies),
        "modules": {name: one.share for name, one in energies.items()},
    }
    (folder / REPORT).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
