# The worker protocol on the wire; needs protobuf.
if(BORA_WITH_GRPC)
  bora_library(bora_worker_codec SRCS worker_auth.cc worker_codec.cc DEPS bora_base bora_hmac bora_step bora_proto)
endif()
