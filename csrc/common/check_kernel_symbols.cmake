# Fails the build where a kernel object defines a symbol outside its own level's namespace. The linker would keep one
# copy of such a symbol, an inline function of the standard library for instance, for every level, and an old processor
# could be handed the AVX-512 one. Run with -DNM=... -DNAMESPACE=isa_v3 -DOBJECTS=a.o,b.o (an installed module is
# stripped and no longer shows this).
string(REPLACE "," ";" OBJECTS "${OBJECTS}")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND "${NM}" --defined-only --extern-only --format=posix "${object}"
    OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${NM} could not read ${object}")
  endif()
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    if(NOT symbol MATCHES "${NAMESPACE}" OR symbol MATCHES " [VvWwu] ")
      message(FATAL_ERROR "${object} defines '${symbol}': kernels may define only strong symbols in ${NAMESPACE}")
    endif()
  endforeach()
endforeach()
