# Layouts of processes, their failures and their end.
bora_python_test(e2e_layouts SCRIPT layouts_test.py LABEL e2e)
