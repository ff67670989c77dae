"""agentcg in other packages; each module needs the package that it is for.

===================  ==========================================================
``minisweagent``     an environment for mini-swe-agent
``opentelemetry``    a span for each tool call
``logs``             each tool call to :mod:`logging`, or to a JSONL file
``pytest``           the plugin behind ``pytest --agentcg``
===================  ==========================================================
"""
