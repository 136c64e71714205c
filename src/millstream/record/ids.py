from millstream.sources import new_trace_id
__all__=["new_trace_id"]
