# The step: what coordinator and workers agree on, and nothing else of model/.
bora_library(bora_step SRCS peer_text.cc step.cc DEPS bora_base)
