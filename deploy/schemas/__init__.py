"""The published contracts: a JSON Schema of each record and an AsyncAPI document of the topics.

All files here are generated from ``streams.records`` and ``streams.settings`` by ``python -m deploy.schemas``.
"""
