"""Operators of a pretended GPU."""

from __future__ import annotations

import atexit
import collections
import contextlib
import json
import os
import sys
import threading
import warnings
from pathlib import Path

from tests.pretended_gpu.runtime import loaded_runtime as runtime
from tests.pretended_gpu.settings import Settings

SETTINGS = Settings.from_environment()
PROJECT = SETTINGS.project


# ------------------------------------------------------------------------------------------------------------------ the count
SYNCS: collections.Counter = collections.Counter()  # (kind, place, op)
OPS: collections.Counter = collections.Counter()
BY_LINE = bool(os.environ.get("PRETEND_LAUNCHES"))
LAUNCHES: collections.Counter = collections.Counter()  # place, where asked for: it takes its time
MISMATCHES: list[str] = []
SDPA: collections.Counter = collections.Counter()
LARGEST: dict[str, int] = {}
SHAPES: dict[str, set] = collections.defaultdict(set)


def place() -> str:
    """The innermost line of the project on this thread's stack."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PROJECT + os.sep) and ".venv" not in name:
            return f"{os.path.relpath(name, PROJECT)}:{frame.f_lineno}"
        frame = frame.f_back
    return f"({threading.current_thread().name})"


def sync(kind: str, op: str) -> None:
    SYNCS[kind, place(), op] += 1


def write_report(folder: str) -> None:
    """Writes the counts of this process to <folder>/<pid>.json."""
    lib = runtime()
    counts = {
        "command": sys.argv,
        "operators": sum(OPS.values()),
        "refused_launches": lib.pretend_refused(),
        "refused_allocations": lib.pretend_too_much(),
        "peak_bytes": lib.pretend_peak(0),
        "mismatches": MISMATCHES,
        "waits": [{"kind": kind, "line": line, "operator": op, "number": n} for (kind, line, op), n in SYNCS.most_common()],
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(counts, indent=1))


# ---------------------------------------------------------------------------------------------------------------- the kernels
# Of these torch's own work: they look at sizes and strides, or take and give memory.
KEPT = {
    "empty.memory_format",
    "empty_strided",
    "new_empty_strided",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
    "set_.source_Tensor",
    "set_",
    "resize_",
    "record_stream",
    "is_pinned",
    "_pin_memory",
    "_fused_sdp_choice",
    "is_set_to",
    "convolution",
    "convolution_overrideable",
    "_convolution",
    "_nested_tensor_storage_offsets",
    "is_coalesced",
    "_has_same_storage_numel",
}
# Only some of these ops' arguments must be on the device; see THPVariable_getitem, _index_put_impl_.
CPU_INDICES = {"index", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put", "index_put"}
ANY_DEVICE = {"copy_", "_copy_from", "_copy_from_and_resize"}
# A number in a tensor of the CPU may stand beside tensors of the device where TensorIterator is at work.
NUMBERS_FROM_CPU = {
    "masked_fill_",
    "masked_fill",
    "fill_",
    "index_fill_",
    "index_fill",
    "where",
    "lerp",
    "lerp_",
    "clamp",
    "clamp_",
    "_foreach_mul_",
    "_foreach_mul",
    "_foreach_add_",
    "_foreach_div_",
    "index_put_",
    "_index_put_impl_",
    "copy_",
}
SYNCHRONISING = {
    "_local_scalar_dense",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "equal",
    "_unique",
    "bincount",
    "histc",
    "is_nonzero",
    "unique_dim_consecutive",
}


def install() -> None:
    import torch

    if getattr(torch, "_pretended", False):
        return
    torch._pretended = True
    warnings.filterwarnings("ignore", message="(?s).*[Oo]verriding a previously registered kernel")
    with contextlib.suppress(ImportError):
        import torchvision  # noqa: F401  (registers its operators)
    CPU = torch.device("cpu")
    Tensor, has = torch.Tensor, torch._C._dispatch_has_kernel_for_dispatch_key
    from_pointer, empty, empty_strided = torch._C._construct_storage_from_data_pointer, torch.empty, torch.empty_strided

    def here(t):
        """The same memory as a tensor of the CPU."""
        if t.device.type != "cuda":
            return t
        storage = t.untyped_storage()
        size = storage.nbytes()
        memory = from_pointer(storage.data_ptr(), CPU, size) if size else torch.UntypedStorage(0)
        return empty(0, dtype=t.dtype).set_(memory, t.storage_offset(), t.size(), t.stride())

    def there(t, device):
        made = empty_strided(t.size(), t.stride(), dtype=t.dtype, device=device)
        if t.numel():
            here(made).copy_(t)
        return made

    def each(value, found):
        """`value` with tensors of the CPU; found: receives those of it that were given."""
        if isinstance(value, Tensor):
            found.append(value)
            return here(value)
        if isinstance(value, (list, tuple)):
            return type(value)(each(item, found) for item in value)
        if isinstance(value, torch.device) and value.type == "cuda":
            return CPU
        return value

    def checked(name, tag_pointwise, args, found):
        device = None
        for t in found:
            if t.device.type == "cuda":
                if device is not None and t.device != device:
                    return complain(name, {str(t.device), str(device)})
                device = t.device
        if device is None or name in ANY_DEVICE:
            return device
        strangers = [t for t in found if t.device.type == "cpu"]
        if name in CPU_INDICES:
            indices = {id(t) for t in args[1] if t is not None}
            strangers = [t for t in strangers if id(t) not in indices]
            if args[0].device.type == "cpu":
                return complain(name, {"cpu", str(device)})
        if tag_pointwise or name in NUMBERS_FROM_CPU:
            strangers = [t for t in strangers if t.dim()]
        return complain(name, {"cpu", str(device)}) if strangers else device

    def complain(name, devices):
        where = place()
        MISMATCHES.append(f"{where} {name}: {' and '.join(sorted(devices))}")
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(devices))}! (when checking argument in method pretended {name}, {where})"
        )

    def kernel_of(op):
        schema = op._schema
        name = schema.name.split("::")[1]
        # Which argument each result is, where it is one.
        written = {}
        for number, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written[tuple(argument.alias_info.before_set)] = (number, argument.name)
        returned = [written.get(tuple(r.alias_info.before_set)) if r.alias_info is not None else None for r in schema.returns]
        many = len(schema.returns)
        pointwise = torch.Tag.pointwise in op.tags
        tensors = [isinstance(argument.type, torch.TensorType) for argument in schema.arguments]
        packet = op.overloadpacket
        waits = name in SYNCHRONISING
        if name in ("repeat_interleave",):
            waits = True

        def kernel(*args, **kwargs):
            OPS[name] += 1
            if BY_LINE:
                LAUNCHES[place()] += 1
            if break_at:
                count[0] += 1
                if count[0] == break_at:
                    runtime().pretend_break(710)  # cudaErrorAssert
                if count[0] >= break_at:
                    torch.cuda.synchronize()
            found = []
            cpu_args = [each(value, found) for value in args]
            cpu_kwargs = {key: each(value, found) for key, value in kwargs.items()}
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.Generator) and value.device.type == "cpu":
                    raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name}, {place()})")
            cpu_args = [None if isinstance(value, torch.Generator) else value for value in cpu_args]
            cpu_kwargs = {key: None if isinstance(value, torch.Generator) else value for key, value in cpu_kwargs.items()}
            device = checked(name, pointwise, args, found)
            if device is None:
                given = kwargs.get("device")
                device = given if isinstance(given, torch.device) and given.type == "cuda" else None
            if device is None:
                device = torch.device("cuda", torch.cuda.current_device())
            if waits and not (name == "repeat_interleave" and kwargs.get("output_size") is not None):
                sync("wait", name)
            elif name in CPU_INDICES:
                for index in args[1]:
                    if index is None:
                        continue
                    if index.device.type == "cpu":
                        sync("h2d index", name)
                    elif index.dtype in (torch.bool, torch.uint8) and not (len(args) > 2 and args[2].numel() == 1):
                        sync("bool index", name)
            elif name == "copy_":
                to, source = args[0], args[1]
                quiet = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
                if to.device.type != source.device.type:
                    on_host = to if to.device.type == "cpu" else source
                    if not (quiet and on_host.is_pinned()):
                        sync("d2h" if to.device.type == "cpu" else "h2d", name)
            # A number that stands for a tensor arrives as the number it is; the packet finds the overload that takes it.
            numbers = any(tensors[place] and isinstance(value, (int, float, complex)) for place, value in enumerate(cpu_args))
            result = (packet if numbers else op)(*cpu_args, **cpu_kwargs)
            if many == 0:
                return None
            results = (result,) if many == 1 else tuple(result)
            out = []
            for value, source in zip(results, returned, strict=True):
                if source is not None:
                    number, key = source
                    original = kwargs[key] if key in kwargs else args[number]
                    if isinstance(original, Tensor) and original.shape != value.shape:  # an `out` that was too small
                        original.resize_(value.shape)
                        here(original).copy_(value)
                    out.append(original)
                elif isinstance(value, Tensor):
                    out.append(there(value, device))
                elif isinstance(value, (list, tuple)):
                    out.append([there(v, device) if isinstance(v, Tensor) else v for v in value])
                else:
                    out.append(value)
            return out[0] if many == 1 else tuple(out)

        kernel.__name__ = f"pretended_{name}"
        return kernel

    libs = {}
    break_at, count = int(os.environ.get("PRETEND_BREAK_AT", 0)), [0]  # from this op on the device is broken
    if os.environ.get("PRETEND_BREAK_GPU", os.environ.get("CUDA_VISIBLE_DEVICES")) != os.environ.get("CUDA_VISIBLE_DEVICES"):
        break_at = 0

    def register(full, fn):
        space, rest = full.split("::")
        if space not in libs:
            libs[space] = torch.library.Library(space, "IMPL")
        libs[space].m.impl(rest, "CUDA", fn)  # not Library.impl: it keeps a list and refuses doubles

    own = special(torch, here, there, sync)
    for full in torch._C._dispatch_get_all_op_names():
        space, rest = full.split("::")
        if space not in ("aten", "torchvision"):
            continue
        if full in own:
            register(full, own[full])
            continue
        extra = rest in ("copy_", "lift_fresh") and rest == "copy_"
        if not has(full, "CUDA") and not extra:
            continue
        if rest in KEPT or rest.split(".")[0] in KEPT:
            continue
        packet, _, overload = rest.partition(".")
        try:
            op = getattr(getattr(getattr(torch.ops, space), packet), overload or "default")
        except AttributeError:
            continue
        if any(r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns):
            continue  # a view
        if not (
            has(full, "CPU") or has(full, "CompositeExplicitAutograd") or has(full, "CompositeExplicitAutogradNonFunctional")
        ):
            continue
        register(full, kernel_of(op))
    torch._pretended_libs = libs
    if SETTINGS.report:
        atexit.register(write_report, SETTINGS.report)


def special(torch, here, there, sync):
    """Kernels of what has none on a CPU."""
    aten = torch.ops.aten

    def cudnn_convolution(self, weight, padding, stride, dilation, groups, benchmark, deterministic, allow_tf32):
        if weight.device != self.device:
            raise RuntimeError(f"Input type ({self.device}) and weight type ({weight.device}) should be the same")
        OPS["cudnn_convolution"] += 1
        x, w = here(self), here(weight)
        return there(aten.convolution(x, w, None, stride, padding, dilation, False, [0] * len(stride), groups), self.device)

    def cudnn_convolution_transpose(
        self, weight, padding, output_padding, stride, dilation, groups, benchmark, deterministic, allow_tf32
    ):
        OPS["cudnn_convolution_transpose"] += 1
        x, w = here(self), here(weight)
        return there(aten.convolution(x, w, None, stride, padding, dilation, True, output_padding, groups), self.device)

    def cudnn_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, epsilon):
        OPS["cudnn_batch_norm"] += 1
        given = [None if t is None else here(t) for t in (input, weight, bias, running_mean, running_var)]
        out, mean, inverse = aten.native_batch_norm(*given, training, momentum, epsilon)
        return *(there(t, input.device) for t in (out, mean, inverse)), torch.empty(0, dtype=torch.uint8, device=input.device)

    def cudnn_batch_norm_backward(input, grad_output, weight, running_mean, running_var, save_mean, save_var, epsilon, reserve):
        given = [
            None if t is None else here(t) for t in (grad_output, input, weight, running_mean, running_var, save_mean, save_var)
        ]
        grads = aten.native_batch_norm_backward(*given, True, epsilon, [True, True, True])
        return tuple(there(t, input.device) for t in grads)

    def attend(q, k, v, bias, is_causal, scale):
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        logits = (q.float() @ k.float().transpose(-1, -2)) * scale
        if is_causal:
            logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        if bias is not None:
            logits = logits + bias.float()
        return logits.softmax(-1), logits.logsumexp(-1), scale

    def seen(kind, q, k, bias):
        SDPA[kind, str(q.dtype).removeprefix("torch."), "bias" if bias is not None else "no bias"] += 1
        LARGEST[kind] = max(LARGEST.get(kind, 0), q.shape[0])
        SHAPES[kind].add((tuple(q.shape), tuple(k.shape), bias is not None))
        devices = {t.device for t in (q, k) if t is not None}
        if len(devices) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device, but got {devices}")

    def efficient(query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None):
        seen("efficient", query, key, attn_bias)
        return efficiently(query, key, value, attn_bias, dropout_p, is_causal, scale)

    def efficiently(query, key, value, attn_bias, dropout_p, is_causal, scale):
        assert not dropout_p, "dropout in a fused attention is not pretended"
        q, k, v = here(query), here(key), here(value)
        shares, sums, scale = attend(q, k, v, None if attn_bias is None else here(attn_bias), is_causal, scale)
        out = (shares @ v.float()).to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2)  # the kernel's own layout
        seed = torch.zeros((), dtype=torch.long, device=query.device)
        return there(out, query.device), there(sums, query.device), seed, seed.clone()

    def gradients(grad_out, query, key, value, bias, is_causal, scale):
        g, q, k, v = (here(t).float() for t in (grad_out, query, key, value))
        shares, _, scale = attend(q, k, v, None if bias is None else here(bias), is_causal, scale)
        grad_shares = g @ v.transpose(-1, -2)
        grad_logits = shares * (grad_shares - (grad_shares * shares).sum(-1, keepdim=True))
        made = grad_logits @ k * scale, grad_logits.transpose(-1, -2) @ q * scale, shares.transpose(-1, -2) @ g
        return [there(t.to(query.dtype), query.device) for t in made], grad_logits

    def efficient_backward(
        grad_out,
        query,
        key,
        value,
        attn_bias,
        out,
        logsumexp,
        seed,
        offset,
        dropout_p,
        grad_input_mask,
        is_causal=False,
        *,
        scale=None,
    ):
        made, grad_logits = gradients(grad_out, query, key, value, attn_bias, is_causal, scale)
        grad_bias = None
        if attn_bias is not None and grad_input_mask[3]:
            grad_bias = there(grad_logits.sum_to_size(attn_bias.shape).to(attn_bias.dtype), query.device)
        return *made, grad_bias

    def flash(query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
        seen("flash", query, key, None)
        assert not dropout_p, "dropout in a fused attention is not pretended"
        q, k, v = here(query), here(key), here(value)
        shares, sums, scale = attend(q, k, v, None, is_causal, scale)
        out = (shares @ v.float()).to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2)
        nothing = torch.empty(0, dtype=torch.int32, device=query.device)
        state = torch.zeros(2, dtype=torch.uint64, device=query.device)
        unused = torch.zeros((), dtype=torch.uint64, device=query.device)
        return (
            there(out, query.device),
            there(sums, query.device),
            nothing,
            nothing.clone(),
            q.shape[2],
            k.shape[2],
            state,
            unused,
            torch.empty(0, dtype=q.dtype, device=query.device),
        )

    def flash_backward(
        grad_out,
        query,
        key,
        value,
        out,
        logsumexp,
        cum_q,
        cum_k,
        max_q,
        max_k,
        dropout_p,
        is_causal,
        seed,
        offset,
        *,
        scale=None,
    ):
        made, _ = gradients(grad_out, query, key, value, None, is_causal, scale)
        return tuple(made)

    def cudnn_attention(
        query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None
    ):
        seen("cudnn", query, key, attn_bias)
        out, sums, seed, offset = efficiently(query, key, value, attn_bias, dropout_p, is_causal, scale)
        nothing = torch.empty(0, dtype=torch.int32, device=query.device)
        return (
            out,
            sums[..., None],
            nothing,
            nothing.clone(),
            query.shape[2],
            key.shape[2],
            seed,
            offset,
            torch.empty(0, dtype=query.dtype, device=query.device),
        )

    def cudnn_attention_backward(
        grad_out,
        query,
        key,
        value,
        out,
        logsumexp,
        seed,
        offset,
        attn_bias,
        cum_q,
        cum_k,
        max_q,
        max_k,
        dropout_p,
        is_causal,
        *,
        scale=None,
    ):
        made, _ = gradients(grad_out, query, key, value, attn_bias, is_causal, scale)
        return tuple(made)

    def nms(dets, scores, iou_threshold):
        OPS["nms"] += 1
        if dets.device != scores.device:
            raise RuntimeError(f"nms: boxes on {dets.device}, scores on {scores.device}")
        sync("wait", "nms")
        return there(torch.ops.torchvision.nms(here(dets), here(scores), iou_threshold), dets.device)

    def single(op):  # half in, float out: on CUDA only
        def kernel(self, dim, half_to_float):
            OPS[op._schema.name] += 1
            x = here(self)
            return there(op(x.float() if half_to_float else x, dim, False), self.device)

        return kernel

    def single_backward(op):
        def kernel(grad_output, output, dim, input_dtype):
            OPS[op._schema.name] += 1
            grad, out = here(grad_output), here(output)
            return there(op(grad, out, dim, grad.dtype).to(input_dtype), grad_output.device)

        return kernel

    return {
        "aten::_softmax": single(aten._softmax.default),
        "aten::_log_softmax": single(aten._log_softmax.default),
        "aten::_softmax_backward_data": single_backward(aten._softmax_backward_data.default),
        "aten::_log_softmax_backward_data": single_backward(aten._log_softmax_backward_data.default),
        "aten::cudnn_convolution": cudnn_convolution,
        "aten::cudnn_convolution_transpose": cudnn_convolution_transpose,
        "aten::cudnn_batch_norm": cudnn_batch_norm,
        "aten::cudnn_batch_norm_backward": cudnn_batch_norm_backward,
        "aten::_scaled_dot_product_efficient_attention": efficient,
        "aten::_scaled_dot_product_efficient_attention_backward": efficient_backward,
        "aten::_scaled_dot_product_flash_attention": flash,
        "aten::_scaled_dot_product_flash_attention_backward": flash_backward,
        "aten::_scaled_dot_product_cudnn_attention": cudnn_attention,
        "aten::_scaled_dot_product_cudnn_attention_backward": cudnn_attention_backward,
        "torchvision::nms": nms,
    }
