"""The asyncio pieces that both ends of a channel share."""
