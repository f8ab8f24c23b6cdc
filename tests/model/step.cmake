bora_test(step_test SRCS peer_text_test.cc step_test.cc DEPS bora_step LABEL unit)
