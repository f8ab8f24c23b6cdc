# Layouts of processes, their failures and their end. Each takes 10 to 40 s on two busy cores.
bora_python_test(e2e_layouts SCRIPT layouts_test.py LABEL e2e)
bora_python_test(e2e_sim_device SCRIPT sim_device_test.py LABEL e2e)
bora_python_test(e2e_failures SCRIPT failures_test.py LABEL e2e)
bora_python_test(e2e_drain SCRIPT drain_test.py LABEL e2e)
bora_python_test(e2e_netns SCRIPT netns_test.py LABEL netns)
