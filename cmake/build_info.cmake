# Run at every build: writes OUTPUT from INPUT when the commit has changed.
execute_process(
  COMMAND git -C ${SOURCE_DIR} describe --always --abbrev=12 --dirty --exclude=*
  OUTPUT_VARIABLE BORA_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR BORA_COMMIT STREQUAL "")
  set(BORA_COMMIT "unknown")
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
