"""MCP's SDK: streamable HTTP, without sessions."""

import sys

from answer import slow_async, who
from mcp.server.fastmcp import Context, FastMCP

mcp = FastMCP("matrix", host="127.0.0.1", port=int(sys.argv[1]), stateless_http=True, json_response=True)


@mcp.tool()
async def ask(word: str, context: Context) -> str:
    client = context.request_context.request.client.host
    return await slow_async(client) if word == "slow" else who(client)


mcp.run(transport="streamable-http")
