# Our tokenizer against spm_encode and spm_decode.
bora_binary(tokenizer_cli SRCS tokenizer_cli.cc DEPS bora_tokenizer_model)
bora_python_test(tokenizer_parity SCRIPT tokenizer_parity.py LABEL conformance TIMEOUT 180)
