"""grpcio: a server of threads, or of asyncio; generic handlers instead of generated ones."""

import asyncio
import sys
from concurrent import futures

import grpc
from answer import slow, slow_async, who


def client_of(context):
    return context.peer().split(":")[1]


def ask(request, context):
    client = client_of(context)
    return (slow(client) if request == b"slow" else who(client)).encode()


async def ask_async(request, context):
    client = client_of(context)
    return (await slow_async(client) if request == b"slow" else who(client)).encode()


def handlers(method):
    return [grpc.method_handlers_generic_handler("m.M", {"Ask": grpc.unary_unary_rpc_method_handler(method)})]


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    server.add_generic_rpc_handlers(handlers(ask))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


async def serve_async(address):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(ask_async))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


where = f"127.0.0.1:{sys.argv[2]}"
if sys.argv[1] == "aio":
    asyncio.run(serve_async(where))
else:
    serve(where)
