"""The messages built at run time are those of the Open Inference Protocol."""

from coformer_runtime.oip import MESSAGES, METHODS, messages, parameter_value, set_parameter


def test_field_numbers_on_the_wire() -> None:
    request = messages()["ModelInferRequest"](model_name="m", model_version="v", id="i")
    request.parameters["p"].int64_param = 3
    tensor = request.inputs.add(name="x", datatype="INT8", shape=[1, 2])
    tensor.contents.int_contents.extend([1, -1])
    request.outputs.add(name="y")
    # Written out by hand from the field numbers of open_inference_grpc.proto.
    expected = (b"\x0a\x01m" b"\x12\x01v" b"\x1a\x01i" b"\x22\x07\x0a\x01p\x12\x02\x10\x03"
                b"\x2a\x1c\x0a\x01x\x12\x04INT8\x1a\x02\x01\x02" b"\x2a\x0d\x12\x0b\x01"
                + b"\xff" * 9 + b"\x01" b"\x32\x03\x0a\x01y")  # fmt: skip
    assert messages()["ModelInferRequest"].FromString(request.SerializeToString()) == request
    assert request.SerializeToString() == expected
    response = messages()["ModelInferResponse"](id="i", raw_output_contents=[b"ab"])
    assert response.SerializeToString() == b"\x1a\x01i\x32\x02ab"
    metadata = messages()["ModelMetadataResponse"](name="m", versions=["1"], platform="p")
    assert metadata.SerializeToString() == b"\x0a\x01m\x12\x011\x1a\x01p"


def test_every_method_has_its_messages() -> None:
    for names in METHODS.values():
        assert set(names) <= set(MESSAGES)
    assert messages() is messages()


def test_parameters() -> None:
    parameter = messages()["InferParameter"]
    for value in (True, 3, 0.25, "text"):
        holder = parameter()
        set_parameter(holder, value)
        assert parameter_value(holder) == value
        assert type(parameter_value(holder)) is type(value)
    assert parameter_value(parameter()) is None
