"""Drives the REST releases of rime-sdk (2.0 to 2.13) as they are on PyPI."""

import functools

import conversation
from conversation import to
from rime_sdk import client as sdk
from rime_sdk.swagger import swagger_client


class Client(sdk.Client):
    """The published client without the two questions that its constructor asks of services that aren't ours."""

    def _check_version(self):
        return ""

    def _check_expiration(self):
        pass


@functools.cache
def connected(address, key):
    return Client(address, api_key=key, disable_tls=True)


def client():
    return connected(to.address, to.key)


def generated(api, *names):
    """A method of the generated API; the releases name it differently."""
    return next(getattr(api, name) for name in names if hasattr(api, name))


def images():
    return swagger_client.ImageRegistryApi(client()._api_client)


def jobs():
    return swagger_client.JobReaderApi(client()._api_client)


def create(name, pips, packages=None, python_version=None):
    wanted = [client().pip_requirement(*pip) for pip in pips]
    others = None if packages is None else [client().os_requirement(*package) for package in packages]
    return str(client().create_managed_image(name, wanted, others, python_version))


def status(name, wait_until_finish):
    builder = sdk.ImageBuilder(client()._api_client, name)
    return builder.get_status(verbose=True, wait_until_finish=wait_until_finish, poll_rate_sec=0.05)


def find(filters=None):
    conditions = None if filters is None else [client().pip_library_filter(*one) for one in filters]
    return list(client().list_managed_images(conditions))


def create_raw(name, specifier=None):
    """The generated call, whose answer holds the job too."""
    numpy = client().pip_requirement("numpy", specifier)
    body = swagger_client.RimeCreateImageRequest(name=name, pip_requirements=[numpy])
    return generated(images(), "create_image", "image_registry_create_image")(body).to_dict()


def list_by_get(page_size, page_token=""):
    method = generated(images(), "list_images", "image_registry_list_images")
    return method(page_size=page_size, page_token=page_token).to_dict()


def job(job_id, wait_until_finish=False):
    found = client().get_job(job_id)
    return {
        "class": type(found).__name__,
        "status": found.get_status(verbose=True, wait_until_finish=wait_until_finish, poll_rate_sec=0.05),
    }


def cancel(job_id):
    generated(jobs(), "cancel_job", "job_reader_cancel_job")(job_id)


def report(name, libraries):
    """UpdateBuildInfo, which the builders of 2.13 call."""
    body = swagger_client.RimeUpdateBuildInfoRequest(name=name, built_successfully=True, pip_libraries=libraries)
    generated(images(), "update_build_info", "image_registry_update_build_info")(body)


conversation.serve(
    {
        "create": create,
        "create_raw": create_raw,
        "status": status,
        "has": lambda name, check_status=False: client().has_managed_image(name, check_status),
        "get": lambda name: client().get_managed_image(name),
        "delete": lambda name: client().delete_managed_image(name),
        "list": find,
        "list_by_get": list_by_get,
        "job": job,
        "job_cancel": lambda job_id: client().get_job(job_id).cancel(),
        "cancel": cancel,
        "agent": lambda job_id: client().get_job(job_id).get_agent_id(),
        "logs_link": lambda job_id: client().get_job(job_id).get_job_debug_logs_link(),
        "report": report,
    }
)
