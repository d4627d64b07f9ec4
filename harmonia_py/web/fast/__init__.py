"""Requests that are answered before the framework parses them. Every use of aiohttp's private names is here."""
