bora_test(step_test SRCS step_test.cc DEPS bora_step LABEL unit)
