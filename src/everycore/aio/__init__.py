"""The asyncio pieces that both ends of a channel share; knows neither the primary nor a worker."""
