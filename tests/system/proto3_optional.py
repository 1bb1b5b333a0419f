"""Lets protoc use a plugin from before proto3 had `optional`: python proto3_optional.py PLUGIN.

protoc refuses files with `optional` unless the plugin says that it knows the keyword. This passes the request on to
the real plugin as it is (to which such a field looks like a oneof of its own) and says so on its behalf.
"""

import subprocess
import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorResponse


def main() -> None:
    """Run the plugin that the command line names."""
    run = subprocess.run([sys.argv[1]], input=sys.stdin.buffer.read(), stdout=subprocess.PIPE, check=True)
    response = CodeGeneratorResponse.FromString(run.stdout)
    response.supported_features |= CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
