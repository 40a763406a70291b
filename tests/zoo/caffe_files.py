"""Write `.caffemodel` and prototxt files of networks, by more of Caffe's message definitions than are read."""

from __future__ import annotations

import functools
import re

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_FIELDS = {
    "BlobShape": "dim:1:int64*",
    "BlobProto": "num:1:int32 channels:2:int32 height:3:int32 width:4:int32 data:5:float* shape:7:BlobShape",
    "TransformationParameter": "scale:1:float crop_size:3:uint32 mean_value:5:float*",
    "ConvolutionParameter": "num_output:1:uint32 bias_term:2:bool pad:3:uint32* kernel_size:4:uint32* group:5:uint32 "
    "stride:6:uint32*",
    "InnerProductParameter": "num_output:1:uint32 bias_term:2:bool",
    "PoolingParameter": "pool:1:Method kernel_size:2:uint32 stride:3:uint32 pad:4:uint32 global_pooling:12:bool",
    "BatchNormParameter": "use_global_stats:1:bool eps:3:float",
    "ScaleParameter": "axis:1:int32 bias_term:4:bool",
    "ReshapeParameter": "shape:1:BlobShape",
    "InputParameter": "shape:1:BlobShape*",
    "LayerParameter": "name:1:string type:2:string bottom:3:string* top:4:string* blobs:7:BlobProto* "
    "transform_param:100:TransformationParameter convolution_param:106:ConvolutionParameter "
    "inner_product_param:117:InnerProductParameter pooling_param:121:PoolingParameter "
    "reshape_param:133:ReshapeParameter batch_norm_param:139:BatchNormParameter scale_param:142:ScaleParameter "
    "input_param:143:InputParameter",
    "NetParameter": "name:1:string layer:100:LayerParameter*",
}
MAX, AVERAGE = 0, 1


@functools.cache
def messages():
    file = descriptor_pb2.FileDescriptorProto(name="tests/caffe.proto", package="caffe", syntax="proto2")
    method = file.enum_type.add(name="Method")
    for number, name in enumerate(("MAX", "AVE")):
        method.value.add(name=name, number=number)
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            field, number, kind = text.split(":")
            repeated, kind = kind.endswith("*"), kind.removesuffix("*")
            added = message.field.add(name=field, number=int(number), label=3 if repeated else 1)
            if kind in _FIELDS or kind == "Method":
                added.type, added.type_name = (14 if kind == "Method" else 11), f".caffe.{kind}"
            else:
                added.type = added.Type.Value(f"TYPE_{kind.upper()}")
                added.options.packed = repeated and kind in ("float", "int64")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in _FIELDS}


def varint(value):
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


class CaffeNet:
    """A network of Caffe that is written layer by layer, as the authors' prototxt files are."""

    def __init__(self, name="net", size=64, factor=3.0, eps=None):
        self.net = messages()["NetParameter"](name=name)
        self.factor, self.eps = factor, eps
        self.layer("data", "Input", []).input_param.shape.add(dim=[1, 3, size, size])

    def layer(self, name, kind, bottoms, top=None, blobs=()):
        added = self.net.layer.add(name=name, type=kind, bottom=bottoms, top=[top or name])
        for blob in blobs:
            stored = added.blobs.add()
            stored.shape.dim.extend(blob.shape)
            numbers = blob.contiguous().numpy().tobytes()  # field 5, packed: without a Python float for each
            stored.MergeFromString(b"\x2a" + varint(len(numbers)) + numbers)
        return added

    def conv(self, name, bottom, weight, stride=1, bias=None):
        blobs = [weight] if bias is None else [weight, bias]
        settings = self.layer(name, "Convolution", [bottom], blobs=blobs).convolution_param
        settings.num_output, settings.bias_term = weight.shape[0], bias is not None
        settings.kernel_size.append(weight.shape[2])
        settings.pad.append(weight.shape[2] // 2)
        settings.stride.append(stride)
        return name, settings

    def unit(self, state, conv, bn, name, bottom, stride=1, group=1, relu=True):
        """A convolution, and in place its normalisation, scale and ReLU."""
        _, settings = self.conv(name, bottom, state[f"{conv}.weight"], stride)
        settings.group = group
        factor = state[f"{bn}.weight"].new_full((1,), self.factor)
        mean, variance = (state[f"{bn}.running_{what}"] * factor for what in ("mean", "var"))
        norm = self.layer(f"{name}/bn", "BatchNorm", [name], name, [mean, variance, factor]).batch_norm_param
        norm.use_global_stats = True
        if self.eps is not None:
            norm.eps = self.eps
        affine = [state[f"{bn}.weight"], state[f"{bn}.bias"]]
        self.layer(f"{name}/bn/scale", "Scale", [name], name, affine).scale_param.bias_term = True
        if relu:
            self.layer(f"{name}/relu", "ReLU", [name], name)
        return name

    def pool(self, name, bottom, method, kernel=0, stride=1, pad=0):
        settings = self.layer(name, "Pooling", [bottom]).pooling_param
        settings.pool = method
        if kernel:
            settings.kernel_size, settings.stride, settings.pad = kernel, stride, pad
        else:
            settings.global_pooling = True
        return name

    def gate(self, state, se, name, bottom, linear=False):
        """Global pooling, two layers, a sigmoid in place."""
        last = self.pool(f"{name}_global_pool", bottom, AVERAGE)
        for index, part in ((1, "down"), (2, "up")):
            weight, bias = state[f"{se}.fc{index}.weight"].flatten(1), state[f"{se}.fc{index}.bias"]
            if linear:
                last = self.linear(f"{name}_1x1_{part}", last, weight, bias)
            else:
                last, _ = self.conv(f"{name}_1x1_{part}", last, weight[..., None, None], bias=bias)
            if index == 1:
                self.layer(f"{last}/relu", "ReLU", [last], last)
        self.layer(f"{name}_prob", "Sigmoid", [last], last)
        return last

    def linear(self, name, bottom, weight, bias):
        added = self.layer(name, "InnerProduct", [bottom], blobs=[weight, bias])
        added.inner_product_param.num_output = weight.shape[0]
        return name

    def classify(self, state, name, bottom):
        pooled = self.pool("pool5/7x7_s1", bottom, AVERAGE)
        self.linear("classifier", pooled, state[f"{name}.weight"], state[f"{name}.bias"])

    def write(self, path):
        """The weights to `path`; the layers as OpenCV takes them to the prototxt beside it.

        The authors' layer Axpy is bottom[0] · bottom[1] + bottom[2] (their axpy_layer.cpp), and OpenCV's is
        bottom[0] · bottom[2] + bottom[1]: there, and only there, the two change places.
        """
        path.write_bytes(self.net.SerializeToString())
        bare = messages()["NetParameter"]()
        bare.CopyFrom(self.net)
        for layer in bare.layer:
            del layer.blobs[:]
            if layer.type == "Axpy":
                layer.bottom[:] = [layer.bottom[0], layer.bottom[2], layer.bottom[1]]
        path.with_suffix(".prototxt").write_text(text_format.MessageToString(bare))
        return path

    def split(self):
        """What Caffe's snapshots hold: a layer that copies each blob that several layers read."""
        readers, written = {}, {}
        for index, layer in enumerate(self.net.layer):
            for position, bottom in enumerate(layer.bottom):
                readers.setdefault((bottom, written.get(bottom)), []).append((index, position))
            written.update(dict.fromkeys(layer.top, index))
        layers = [[layer] for layer in self.net.layer]
        for (name, writer), places in readers.items():
            if len(places) > 1:
                copies = messages()["LayerParameter"](name=f"{name}_split", type="Split", bottom=[name])
                for number, (index, position) in enumerate(places):
                    copies.top.append(f"{name}_split_{number}")
                    layers[index][0].bottom[position] = copies.top[-1]
                layers[writer].append(copies)
        result = messages()["NetParameter"](name=self.net.name)
        for group in layers:
            result.layer.extend(group)
        self.net = result


def residual(state, *, groups=1, stride="3x3", gate="axpy", **options):
    """A residual network of a state dict with the keys of the port (`layer0.conv1`, `layer1.0.se_module.fc1`)."""
    net = CaffeNet(**options)
    last = "data"
    stem = [index for index in (1, 2, 3) if f"layer0.conv{index}.weight" in state]
    for index in stem:
        name = f"conv1_{index}/3x3" if len(stem) > 1 else "conv1/7x7_s2"
        last = net.unit(state, f"layer0.conv{index}", f"layer0.bn{index}", name, last, 2 if index == 1 else 1)
    last = net.pool("pool1/3x3_s2", last, MAX, 3, 2)
    found = (re.match(r"layer([1-9])\.(\d+)\.conv1", key) for key in state)
    for stage, number in sorted((int(match[1]), int(match[2])) for match in found if match):
        block, name = f"layer{stage}.{number}", f"conv{stage + 1}_{number + 1}"
        step = 2 if stage > 1 and number == 0 else 1
        first, second = (step, 1) if stride == "1x1" else (1, step)
        u = net.unit(state, f"{block}.conv1", f"{block}.bn1", f"{name}_1x1_reduce", last, first)
        u = net.unit(state, f"{block}.conv2", f"{block}.bn2", f"{name}_3x3", u, second, groups)
        u = net.unit(state, f"{block}.conv3", f"{block}.bn3", f"{name}_1x1_increase", u, relu=False)
        s = net.gate(state, f"{block}.se_module", name, u, linear=gate == "linear") if gate else None
        x = last
        if f"{block}.downsample.0.weight" in state:
            part = f"{block}.downsample"
            x = net.unit(state, f"{part}.0", f"{part}.1", f"{name}_1x1_proj", last, step, relu=False)
        if gate in ("axpy", "linear"):
            net.layer(name, "Axpy", [s, u, x])
        else:
            if gate:
                scaled(net, name, u, s, f"{name}_scaled")
            net.layer(name, "Eltwise", [x, f"{name}_scaled" if gate else u])
        net.layer(f"{name}/relu", "ReLU", [name], name)
        last = name
    net.classify(state, "last_linear", last)
    return net


def scaled(net, name, u, s, top):
    """Two layers in place of half an Axpy, as the authors' BN-Inception has them."""
    net.layer(f"{name}_prob_reshape", "Reshape", [s]).reshape_param.shape.dim.extend([0, 0])
    settings = net.layer(f"{name}_scale", "Scale", [u, f"{name}_prob_reshape"], top).scale_param
    settings.axis, settings.bias_term = 0, False


_BRANCHES = {
    "1x1": ("branch_1x1",),
    "3x3": ("branch_3x3.0", "branch_3x3.1"),
    "double3x3b": ("branch_double3x3.0", "branch_double3x3.1", "branch_double3x3.2"),
}
_LAYERS = {
    "branch_1x1": "1x1",
    "branch_3x3.0": "3x3_reduce",
    "branch_3x3.1": "3x3",
    "branch_double3x3.0": "double3x3_reduce",
    "branch_double3x3.1": "double3x3a",
    "branch_double3x3.2": "double3x3b",
}


def bn_inception(state, **options):
    """SE-BN-Inception, of a state dict with our keys."""
    net = CaffeNet(**options)

    def unit(name, ours, bottom, stride=1):
        return net.unit(state, f"{ours}.conv", f"{ours}.bn", name, bottom, stride)

    last = net.pool("pool1/3x3_s2", unit("conv1/7x7_s2", "conv1", "data", 2), MAX, 3, 2)
    last = unit("conv2/3x3", "conv2.1", unit("conv2/3x3_reduce", "conv2.0", last))
    last = net.pool("pool2/3x3_s2", last, MAX, 3, 2)
    for module in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        name, shrinks = f"inception_{module}", module in ("3c", "4e")
        outputs = []
        for chain in _BRANCHES.values():
            if f"inception.{module}.{chain[0]}.conv.weight" not in state:
                continue
            u = last
            for part in chain:
                step = 2 if shrinks and part == chain[-1] else 1
                u = unit(f"{name}/{_LAYERS[part]}", f"inception.{module}.{part}", u, step)
            outputs.append(u)
        method = MAX if shrinks or module == "5b" else AVERAGE
        u = net.pool(f"{name}/pool", last, method, 3, 2 if shrinks else 1, 0 if shrinks else 1)
        if not shrinks:
            u = unit(f"{name}/pool_proj", f"inception.{module}.branch_pool.1", u)
        net.layer(f"{name}/concat", "Concat", [*outputs, u])
        s = net.gate(state, f"inception.{module}.se", name, f"{name}/concat")
        scaled(net, name, f"{name}/concat", s, f"{name}/output")
        last = f"{name}/output"
    net.classify(state, "fc", last)
    return net
