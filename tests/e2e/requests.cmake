# Requests, the command line, the demo model and bad input. The timeouts are for slow machines; each takes under a minute
# on two cores.
bora_python_test(e2e_conformance SCRIPT conformance_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_cancellation SCRIPT cancellation_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_prefix_cache SCRIPT prefix_cache_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_candidates SCRIPT candidates_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_queue_policy SCRIPT queue_policy_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_neighbours SCRIPT neighbours_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_logs SCRIPT logs_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_cli SCRIPT cli_test.py LABEL e2e TIMEOUT 300)
bora_python_test(e2e_plan SCRIPT plan_test.py LABEL e2e)
bora_python_test(e2e_local_sh SCRIPT local_sh_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_heldout SCRIPT heldout_test.py LABEL e2e TIMEOUT 600)
bora_python_test(e2e_bad_model SCRIPT bad_model_test.py LABEL e2e TIMEOUT 600)
