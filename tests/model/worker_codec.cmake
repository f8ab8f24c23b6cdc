if(BORA_WITH_GRPC)
  bora_test(worker_codec_test SRCS worker_auth_test.cc worker_codec_test.cc DEPS bora_worker_codec bora_step LABEL unit)
endif()
