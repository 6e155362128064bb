"""One step: sums, limits, units, monotonic effects, patterns of Summit's nodes, bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.framework import (
    COMPOSER_2023,
    DEEPSPEED,
    IDEAL,
    MEGATRON_2021,
    MEGATRON_2022,
    P2P,
    Framework,
)
from alpenglow.parallel.gemm import gemm_seconds
from alpenglow.parallel.hardware import DEFAULTS, Hardware
from alpenglow.parallel.layout import Layout, LayoutError
from alpenglow.parallel.split import layer_flops
from alpenglow.parallel.step_cost import StepCost, step_cost
from alpenglow.parallel.work import Recompute, Work
from alpenglow_lsf.machine import MachineError, load

INCITE_7B = ModelConfig(32, 4096, 32, 50432, rotary_pct=1.0, use_parallel_residual=False)
PUBLISHED = Work(2, 8, 2048, recompute="full", loss="plain", overlapped=False)
LAYOUT = Layout(12, 2, 128)
SUMMIT, SELENE = (Hardware.of(load(name), 3072) for name in ("summit", "selene"))
GPT3 = ModelConfig(
    96, 12288, 96, 51200, use_parallel_residual=False, tie_word_embeddings=True, rotary_pct=0.25
)


def gpt3(work: Work, how: Framework = MEGATRON_2022, data: int = 1) -> StepCost:
    return step_cost(GPT3, Layout(8, 8, data), work, SELENE, how)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
@pytest.mark.parametrize("hardware", [SUMMIT, SELENE], ids=["summit", "selene"])
def test_parts_sum_to_the_step(schedule: str, hardware: Hardware) -> None:
    work = replace(PUBLISHED, schedule=schedule)
    cost = step_cost(INCITE_7B, LAYOUT, work, hardware)
    assert sum(cost.parts().values()) == pytest.approx(cost.seconds)
    assert min(cost.parts().values()) > -1e-9


def test_rates_are_what_their_formulas_say() -> None:
    cost = step_cost(INCITE_7B, LAYOUT, PUBLISHED, SUMMIT)
    assert cost.tokens == 128 * 8 * 2 * 2048
    token = INCITE_7B.flops_per_token(2048)
    assert cost.model_flops == pytest.approx(token * cost.tokens_per_second / 3072)
    assert cost.mfu == pytest.approx(cost.model_flops / 125e12)
    # Narayanan et al. 2021, equation 3, with h, l, s, V of this model.
    h, s, vocabulary, count = 4096, 2048, 50432, 32
    batch = cost.tokens // s
    whole = 96 * batch * s * count * h**2 * (1 + s / (6 * h) + vocabulary / (16 * count * h))
    assert cost.hardware_flops == pytest.approx(whole / 3072 / cost.seconds)
    # Korthikanti et al. 2022, equation 9: 72 B l s h^2 (1 + s/3h... counts the core a fourth time.
    again = replace(PUBLISHED, recompute="selective")
    chosen = step_cost(INCITE_7B, LAYOUT, again, SUMMIT)
    core = count * 4 * s * h / (3 * count * layer_flops(INCITE_7B, s) + 3 * 2 * h * vocabulary)
    assert chosen.hfu / chosen.mfu == pytest.approx(1 + core)
    plain = step_cost(INCITE_7B, LAYOUT, replace(PUBLISHED, recompute="none"), SUMMIT)
    assert plain.hfu == plain.mfu


def test_the_published_7b_layout_idles_as_its_schedule_says() -> None:
    cost = step_cost(INCITE_7B, LAYOUT, PUBLISHED, SUMMIT)
    # 11/19 with equal stages and free messages; 8 stages of 3 layers and 4 of 2, and the head.
    running = cost.seconds - cost.reduction - cost.optimizer - cost.p2p
    assert 0.50 < cost.bubble / running < 0.60
    # The ideal ladder says 0.78 s at the best product's rate with full recompute: no step is less.
    assert cost.seconds > 0.78 / (1 - 11 / 19)


def test_everything_twice_as_fast_takes_half_the_time() -> None:
    gpu = SELENE.gpu
    twice = replace(
        SELENE,
        gpu=replace(
            gpu,
            rate=2 * gpu.rate,
            bandwidth=2 * gpu.bandwidth,
            cache_bandwidth=2 * gpu.cache_bandwidth,
            fill_s=gpu.fill_s / 2,
            kernel_s=gpu.kernel_s / 2,
            host_s=gpu.host_s / 2,
        ),
        site=replace(SELENE.site, nvlink=600e9, network=400e9, port=50e9),
    )
    # NCCL's latencies are not the machine's: of long messages they are nothing.
    work = Work(4, 8, 2048, recompute="full", overlapped=False)
    one, half = (
        step_cost(GPT3, Layout(8, 8, 2), work, hw, MEGATRON_2021) for hw in (SELENE, twice)
    )
    assert half.seconds == pytest.approx(one.seconds / 2, rel=0.01)


def test_one_gpu_is_its_products_and_kernels() -> None:
    model = ModelConfig(2, 8192, 64, 128, use_parallel_residual=False)
    cost = step_cost(model, Layout(), Work(8, 1, 2048, attention="sdpa"), SELENE, IDEAL)
    assert (cost.p2p, cost.bubble, cost.reduction) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    one = cost.slowest
    linear = sum(
        gemm_seconds(SELENE.gpu, 16384, wide, deep, transposed=True)
        for wide, deep in ((24576, 8192), (8192, 8192), (32768, 8192), (8192, 32768))
    )
    assert one.forward.products > 2 * linear
    assert one.forward.products == pytest.approx(2 * linear, rel=0.1)
    assert one.forward.tensor == one.recompute.seconds == 0.0
    # A wide model on one GPU comes near what its products reach.
    assert 0.65 < cost.mfu < 0.875


def test_full_recompute_costs_a_forward_pass_and_selective_the_core() -> None:
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    costs = [gpt3(Work(1, 64, 2048, recompute=kind, overlapped=False)) for kind in kinds]
    none, selective, full = (cost.seconds for cost in costs)
    # Korthikanti et al. 2022, table 4 and figure 8: 30 to 40 % for full, a few for selective.
    assert 1.25 < full / none < 1.40
    assert 1.01 < selective / none < 1.10
    # The layers' forward pass again, of a stage that has the head's once.
    assert costs[2].stages[3].recompute == costs[0].stages[3].forward


def test_sequence_parallelism_saves_kernels_and_moves_as_much() -> None:
    alone = gpt3(Work(1, 64, 2048, overlapped=False))
    shared = gpt3(Work(1, 64, 2048, overlapped=False, sequence_parallel=True))
    assert shared.slowest.forward.kernels < 0.75 * alone.slowest.forward.kernels
    assert shared.slowest.forward.products == alone.slowest.forward.products
    assert shared.slowest.forward.tensor == pytest.approx(alone.slowest.forward.tensor, rel=0.1)
    assert shared.slowest.inputs.tensor > alone.slowest.inputs.tensor  # inputs come once more
    assert max(m.total for m in shared.memory) < max(m.total for m in alone.memory)


def test_interleaving_cuts_the_bubble_and_sends_more() -> None:
    plain = gpt3(Work(1, 16, 2048, recompute="full", overlapped=False))
    chunks = gpt3(Work(1, 16, 2048, recompute="full", overlapped=False, schedule="interleaved-3"))
    assert chunks.bubble == pytest.approx(plain.bubble / 3, rel=0.1)
    assert chunks.p2p > 2 * plain.p2p
    assert chunks.seconds < plain.seconds


@pytest.mark.parametrize("link", ["nvlink", "network"])
def test_a_slower_link_is_never_faster(link: str) -> None:
    work = Work(1, 16, 2048, recompute="full", overlapped=False)
    steps = []
    for share in (1.0, 0.5, 0.1):
        site = SELENE.site
        if link == "network":
            site = replace(site, network=share * site.network, port=share * site.port)
        else:
            site = replace(site, nvlink=share * site.nvlink)
        hardware = replace(SELENE, site=site)
        steps.append(step_cost(GPT3, Layout(8, 8, 4), work, hardware, MEGATRON_2021).seconds)
    assert steps[0] < steps[1] < steps[2]


def test_tensor_ranks_on_two_nodes_pay_for_the_network() -> None:
    model = ModelConfig(32, 20480, 128, 51200, use_parallel_residual=False)
    work = Work(1, 32, 2048, recompute="full", overlapped=False)
    steps = {
        tensor: step_cost(model, Layout(64 // tensor, tensor), work, SELENE, MEGATRON_2021)
        for tensor in (4, 8, 16, 32)
    }
    # Narayanan et al. 2021, section 5.4.1: tensor parallelism up to the node, pipeline beyond.
    assert min(steps, key=lambda tensor: steps[tensor].seconds) == 8
    share = [c.slowest.forward.tensor / c.slowest.forward.seconds for c in steps.values()]
    assert share == sorted(share)


def test_a_replicas_small_batch_shows_its_reduction() -> None:
    shares = []
    for data in (4, 16, 64):
        work = Work(1, 1536 // data, 2048, recompute="full", overlapped=False)
        cost = gpt3(work, MEGATRON_2021, data)
        shares.append((cost.reduction + cost.bubble) / cost.seconds)
    assert shares == sorted(shares) and shares[2] > 5 * shares[0]


def test_overlapped_reduction_hides_behind_the_last_backward_pass() -> None:
    work = replace(PUBLISHED, overlapped=True)
    hidden = step_cost(INCITE_7B, LAYOUT, work, SUMMIT)
    shown = step_cost(INCITE_7B, LAYOUT, PUBLISHED, SUMMIT)
    assert 0 < hidden.reduction < 0.6 * shown.reduction
    # The trainer reduces bf16's gradients after the last pass, in fp32; other frameworks need not.
    wide = replace(work, dtype="bf16")
    late = step_cost(INCITE_7B, LAYOUT, wide, SELENE)
    early = step_cost(INCITE_7B, LAYOUT, wide, SELENE, replace(DEEPSPEED, early_bf16=True))
    assert early.reduction < 0.6 * late.reduction


def test_zero_1_shares_the_optimizer_and_gathers_weights() -> None:
    model = ModelConfig(24, 2048, 16, 50432, use_parallel_residual=False)
    work = Work(4, 1, 2048)
    whole, shared = (
        step_cost(model, Layout(1, 1, 8), work, SELENE, Framework(zero=zero))
        for zero in (False, True)
    )
    assert shared.optimizer < whole.optimizer
    assert shared.optimizer > whole.optimizer / 8


def test_a_small_model_waits_for_the_host() -> None:
    model = ModelConfig(12, 256, 4, 1024, use_parallel_residual=False)
    cost = step_cost(model, Layout(), Work(1, 4, 128), SELENE)
    parts = cost.parts()
    assert parts["host"] > parts["kernels"] + parts["products forward"]
    large = step_cost(GPT3, Layout(8, 8), Work(1, 64, 2048), SELENE)
    assert large.parts()["host"] == 0.0


def test_heads_off_16_bytes_leave_the_tensor_cores() -> None:
    """BLOOM's trials: 128 heads of 108 took a third more than 96 of 144 (13,824 wide, A100)."""
    steps = {}
    for heads in (64, 96, 128):
        model = ModelConfig(12, 13824, heads, 51200, rotary_pct=1.0, use_parallel_residual=False)
        work = Work(4, 4, 2048, recompute="full", loss="plain", overlapped=False)
        steps[heads] = step_cost(model, Layout(1, 8), work, SELENE).seconds
    assert steps[96] == pytest.approx(steps[64], rel=0.05)
    assert 1.15 < steps[128] / steps[96] < 1.45
    # fp32 has rows of 16 bytes there.
    model = ModelConfig(4, 13824, 128, 51200, rotary_pct=1.0, use_parallel_residual=False)
    wide = [step_cost(model, Layout(1, 8), Work(1, 1, 2048, dtype="fp32"), load("selene"))]
    near = replace(model, num_attention_heads=96)
    wide.append(step_cost(near, Layout(1, 8), Work(1, 1, 2048, dtype="fp32"), load("selene")))
    assert wide[0].seconds < 1.1 * wide[1].seconds


def test_sharded_weights_move_with_every_micro_batch() -> None:
    model = ModelConfig(32, 4096, 32, 50432, use_parallel_residual=False)
    shared = replace(COMPOSER_2023, sharded=False)
    costs = []
    for micro_batches, how in ((1, COMPOSER_2023), (4, COMPOSER_2023), (4, shared)):
        work = Work(1, micro_batches, 2048, dtype="bf16", attention="sdpa")
        costs.append(step_cost(model, Layout(1, 1, 8), work, SELENE, how))
    one, four, zero1 = costs
    assert four.seconds - one.seconds > zero1.seconds - zero1.optimizer - one.seconds
    assert four.slowest.forward.tensor > 0 == zero1.slowest.forward.tensor
    assert four.reduction == 0.0
    # A longer micro-batch hides more of it.
    long = Work(8, 4, 2048, dtype="bf16", attention="sdpa")
    hidden = step_cost(model, Layout(1, 1, 8), long, SELENE, COMPOSER_2023).slowest
    share = four.slowest.forward.tensor / four.slowest.forward.seconds
    assert hidden.forward.tensor / hidden.forward.seconds < share / 2
    alone = step_cost(model, Layout(), long, SELENE, COMPOSER_2023).slowest
    assert alone.forward.tensor == 0.0
    # Over the network it is slower than within a node.
    thin = replace(SELENE, site=replace(SELENE.site, network=25e9, port=25e9))
    far = [
        step_cost(model, Layout(1, 1, 64), work, hardware, COMPOSER_2023).seconds
        for hardware in (SELENE, thin)
    ]
    assert far[1] > 1.2 * far[0]


def test_one_kernel_of_loss_and_casts_of_fp32_weights() -> None:
    model = ModelConfig(12, 768, 12, 50304, use_parallel_residual=False)
    work = Work(16, 1, 1024, dtype="bf16", attention="sdpa", loss="plain")
    plain = step_cost(model, Layout(), work, SELENE, IDEAL)
    fused = step_cost(model, Layout(), work, SELENE, replace(IDEAL, fused_loss=True))
    # Of 52 bytes for each logit 6 remain.
    saved = 46 * work.tokens * model.vocab_size / SELENE.gpu.bandwidth
    assert plain.seconds - fused.seconds == pytest.approx(saved, rel=0.02)
    cast = step_cost(model, Layout(), work, SELENE, replace(IDEAL, autocast=True))
    assert plain.seconds < cast.seconds < 1.05 * plain.seconds


def test_fused_attention_skips_what_is_masked_but_for_the_diagonal() -> None:
    costs = {}
    for length in (512, 8192):
        for masked in (False, True):
            work = Work(8192 // length, 1, length, attention="sdpa", masked=masked)
            cost = step_cost(INCITE_7B, Layout(), work, SELENE)
            costs[length, masked] = cost.slowest.inputs.products
    short, long = (costs[n, True] / costs[n, False] for n in (512, 8192))
    assert 1 < short < long < 2
    # Plain attention computes all of it either way.
    plain = [
        step_cost(INCITE_7B, Layout(), Work(1, 1, 8192, masked=masked), SELENE).seconds
        for masked in (False, True)
    ]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_buffered_messages_cost_least(schedule: str) -> None:
    work = Work(1, 16, 2048, recompute="full", overlapped=False, schedule=schedule)
    kinds: tuple[P2P, ...] = ("blocking", "exchange", "buffered")
    slow = replace(SELENE, site=replace(SELENE.site, network=20e9, port=2.5e9))
    costs = [
        step_cost(GPT3, Layout(8, 8, 4), work, slow, replace(IDEAL, p2p=kind)) for kind in kinds
    ]
    # Blocking and exchanged, a message stands in the way once in each direction.
    assert costs[0].p2p > 1.02 * costs[2].p2p < costs[1].p2p
    assert costs[0].bubble == pytest.approx(costs[2].bubble)


def test_a_schedule_is_memory_for_time() -> None:
    """GPipe keeps every micro-batch, 1F1B as many as stages, ZB-H1 on all of them."""
    need = {}
    for schedule in ("gpipe", "1f1b", "zb-h1"):
        work = Work(1, 32, 2048, loss="plain", schedule=schedule)
        cost = step_cost(GPT3, Layout(8, 8), work, SELENE)
        need[schedule] = [stage.total for stage in cost.memory], cost.bubble
    assert max(need["gpipe"][0]) > 1.5 * max(need["1f1b"][0])
    assert need["zb-h1"][0][-1] > 1.2 * need["1f1b"][0][-1]
    assert need["zb-h1"][1] < 0.7 * need["1f1b"][1]


def test_a_prediction_for_this_trainer_says_what_its_engine_loses() -> None:
    lost, ideal = (
        step_cost(INCITE_7B, LAYOUT, PUBLISHED, SUMMIT, how) for how in (DEEPSPEED, IDEAL)
    )
    assert 1.05 < lost.seconds / ideal.seconds < 1 / 0.78
    assert any("DeepSpeed's pipeline engine" in line for line in lost.warnings)
    assert not ideal.warnings


def test_unfused_kernels_and_plain_attention_cost_more() -> None:
    work = Work(4, 8, 2048)
    fused, apart = (
        step_cost(INCITE_7B, Layout(4, 2, 1), work, SELENE, replace(DEEPSPEED, fused=f))
        for f in (True, False)
    )
    assert apart.seconds > 1.05 * fused.seconds
    lean = step_cost(INCITE_7B, Layout(4, 2, 1), replace(work, attention="sdpa"), SELENE)
    assert lean.seconds < fused.seconds


def test_the_pair_across_the_sockets_sets_the_pace() -> None:
    """Every third tensor pair of a Summit node straddles the X-bus; its stages take longer."""
    cost = step_cost(INCITE_7B, LAYOUT, PUBLISHED, SUMMIT)
    whole = replace(SUMMIT, site=replace(SUMMIT.site, sockets=(0,) * 6, bus=None))
    flat = step_cost(INCITE_7B, LAYOUT, PUBLISHED, whole)
    assert flat.seconds < cost.seconds < 1.2 * flat.seconds


def test_a_machine_file_without_constants_says_so() -> None:
    hardware = Hardware.of(replace(load("perlmutter"), gpu=None), 64)
    assert hardware.gpu.multiprocessors == DEFAULTS.multiprocessors
    cost = step_cost(INCITE_7B, Layout(4, 4, 4), Work(1, 8, 2048), hardware)
    assert any("perlmutter has no [gpu] table" in line for line in cost.warnings)
    assert not SELENE.warnings
    # Another file of the same GPU, with constants: not far off.
    sourced = step_cost(INCITE_7B, Layout(4, 4, 4), Work(1, 8, 2048), load("selene"))
    assert cost.seconds == pytest.approx(sourced.seconds, rel=0.25)


def test_bad_input_is_told_in_one_sentence() -> None:
    with pytest.raises(MachineError, match=r"frontier.*peak_flops.fp16; one of them is missing"):
        step_cost(INCITE_7B, Layout(), Work(1, 1, 2048), replace(load("frontier"), peak_flops={}))
    with pytest.raises(ValueError, match="num_attention_heads = 32 does not divide by tensor = 3"):
        step_cost(INCITE_7B, Layout(1, 3), Work(1, 1, 2048), SELENE)
    with pytest.raises(LayoutError, match="cannot fill pipeline = 64"):
        step_cost(INCITE_7B, Layout(64), Work(1, 1, 2048), SELENE)
    with pytest.raises(ValueError, match="a multiple of them as micro-batches"):
        step_cost(INCITE_7B, Layout(4), Work(1, 6, 2048, schedule="interleaved-2"), SELENE)
    with pytest.raises(ValueError, match="a stage of 8 layers has no 3 equal chunks"):
        step_cost(INCITE_7B, Layout(4), Work(1, 4, 2048, schedule="interleaved-3"), SELENE)
    with pytest.raises(ValueError, match="choose from 1f1b, gpipe, zb-h1, interleaved-V"):
        step_cost(INCITE_7B, Layout(4), Work(1, 4, 2048, schedule="interleaved-1"), SELENE)
