// The same in C++.
#include "tests/test_assertions.c"
