# The text of completions needs neither gRPC nor protobuf; the public services need both.
if(NOT TARGET bora_completion_text)
  bora_library(bora_completion_text SRCS completion_text.cc DEPS bora_tokenizer bora_base)
endif()

if(BORA_WITH_GRPC)
  bora_library(bora_request_validator SRCS request_validator.cc violations.cc
               DEPS bora_proto bora_tokenizer bora_base)
  bora_library(
    bora_public_api
    SRCS access_log.cc api_error_status.cc request_compression.cc request_parsing.cc rpc_record.cc server_report.cc reporter.cc task_pool.cc reactor_pump.cc
         answer_buffer.cc response_buffer.cc generate_reactor.cc inference_service.cc model_service.cc public_server.cc
         unknown_methods.cc
    DEPS bora_request_validator bora_step bora_grpc gRPC::grpc++_reflection gRPC::grpc ZLIB::ZLIB bora_base)
endif()
