"""Drives rime-sdk 0.18.0, the last gRPC release, as it is on PyPI: its client, and its generated stubs."""

import functools

import conversation
import grpc
from conversation import to
from google.protobuf.json_format import MessageToDict
from rime_sdk import client as sdk
from rime_sdk.image_builder import RIMEImageBuilder
from rime_sdk.internal.backend import RIMEBackend
from rime_sdk.protos.image_registry import image_registry_pb2 as images_pb
from rime_sdk.protos.image_registry.image_registry_pb2_grpc import ImageRegistryStub
from rime_sdk.protos.jobs import jobs_pb2 as jobs_pb
from rime_sdk.protos.jobs.jobs_pb2_grpc import JobReaderStub


class Backend(RIMEBackend):
    """The published one, at a port of our choice and without the question for the platform's version."""

    def _check_version(self):
        return ""

    def _get_backend_addr(self, domain, disable_tls=False):
        return domain


@functools.cache
def connected(address, key):
    made = sdk.Client.__new__(sdk.Client)  # its constructor asks for the licence, which isn't ours
    made._domain = address
    made._backend = Backend(address, api_key=key, disable_tls=True)
    return made


def client():
    return connected(to.address, to.key)


def create(name, pips):
    return str(client().create_managed_image(name, [client().pip_requirement(*pip) for pip in pips]))


def status(name, wait_until_finish):
    builder = RIMEImageBuilder(client()._backend, name)
    return builder.get_status(verbose=True, wait_until_finish=wait_until_finish, poll_rate_sec=0.05)


def find(filters=None):
    conditions = None if filters is None else [client().pip_library_filter(*one) for one in filters]
    return list(client().list_managed_images(conditions))


def job(job_id, wait_until_finish=False):
    found = client().get_job(job_id)
    return {
        "class": type(found).__name__,
        "status": found.get_status(verbose=True, wait_until_finish=wait_until_finish, poll_rate_sec=0.05),
    }


def stub(service, method, request):
    """Any method of the generated stubs, with fields of the request by name."""
    stubs, messages = {"images": (ImageRegistryStub, images_pb), "jobs": (JobReaderStub, jobs_pb)}[service]
    message = getattr(messages, method + "Request")(**request)
    with grpc.insecure_channel(to.address) as channel:
        try:
            key = (("rime-api-key", to.key),) if to.key else ()
            answer = getattr(stubs(channel), method)(message, timeout=10, metadata=key)
        except grpc.RpcError as error:
            raise ValueError(f"{error.code().name}: {error.details()}") from None
    return MessageToDict(answer, including_default_value_fields=True, preserving_proto_field_name=True)


conversation.serve(
    {
        "create": create,
        "status": status,
        "has": lambda name, check_status=False: client().has_managed_image(name, check_status),
        "get": lambda name: client().get_managed_image(name),
        "delete": lambda name: client().delete_managed_image(name),
        "list": find,
        "job": job,
        "stub": stub,
    }
)
