# One thread, and 10 MB texts: ThreadSanitizer has nothing to find here and takes a minute for it.
if(BORA_SANITIZE MATCHES "thread")
  return()
endif()
bora_test(
  tokenizer_test
  SRCS tokenizer_test.cc tokenizer_decode_test.cc tokenizer_model_test.cc
  DEPS bora_tokenizer_model
  LABEL unit
  TIMEOUT 600)
