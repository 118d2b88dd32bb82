// The polynomials of vector_math.hpp, in Horner's form. vector_math_polynomials.py derives every constant here; the
// error beside each is its share of the finished function's relative error.
#pragma once

#include "common/host_device.hpp"

namespace metafast {
namespace vector_math {

// (sin(r) / r - 1) / z with z = r^2, |r| <= pi/4. 2^-28.0
METAFAST_FORMULA float sine_polynomial(float z) {
  return -0x1.555546p-3f + z * (0x1.11077ep-7f + z * -0x1.9956b2p-13f);
}

// The same. 2^-58.0
METAFAST_FORMULA double sine_polynomial(double z) {
  double p = -0x1.ae5e686cbb3f7p-26 + z * 0x1.5d9394413a69ap-33;
  p = 0x1.71de357ae474fp-19 + z * p;
  p = -0x1.a01a019c15e70p-13 + z * p;
  p = 0x1.111111110f8a5p-7 + z * p;
  return -0x1.5555555555549p-3 + z * p;
}

// (cos(r) - 1 + z / 2) / z^2 with z = r^2, |r| <= pi/4. 2^-33.1
METAFAST_FORMULA float cosine_polynomial(float z) {
  return 0x1.55554ap-5f + z * (-0x1.6c0c1ap-10f + z * 0x1.99e0eep-16f);
}

// The same. 2^-64.2
METAFAST_FORMULA double cosine_polynomial(double z) {
  double p = 0x1.1ee9f132556a5p-29 + z * -0x1.8fb11e1105fddp-37;
  p = -0x1.27e4f8128e8ddp-22 + z * p;
  p = 0x1.a01a019cbf386p-16 + z * p;
  p = -0x1.6c16c16c1521ep-10 + z * p;
  return 0x1.555555555554cp-5 + z * p;
}

// (exp(r) - 1 - r) / r^2 with |r| <= ln(2)/2. 2^-25.9, relative to expm1
METAFAST_FORMULA float exponential_polynomial(float r) {
  float p = 0x1.1227fep-7f + r * 0x1.6d990ep-10f;
  p = 0x1.555486p-5f + r * p;
  p = 0x1.5554b0p-3f + r * p;
  return 0x1p-1f + r * p;
}

// The same. 2^-55.6, relative to expm1
METAFAST_FORMULA double exponential_polynomial(double r) {
  double p = 0x1.28a2ab520038fp-22 + r * 0x1.af76894e4f0dep-26;
  p = 0x1.71ddea1a17543p-19 + r * p;
  p = 0x1.a019a686026d1p-16 + r * p;
  p = 0x1.a01a01b5cfa8ep-13 + r * p;
  p = 0x1.6c16c17f37658p-10 + r * p;
  p = 0x1.111111110e6ebp-7 + r * p;
  p = 0x1.55555555520f4p-5 + r * p;
  p = 0x1.555555555555cp-3 + r * p;
  return 0x1.0000000000005p-1 + r * p;
}

}  // namespace vector_math
}  // namespace metafast
