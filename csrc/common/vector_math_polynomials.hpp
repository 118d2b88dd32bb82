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

// (exp(r) - 1 - r) / r^2 with |r| <= ln(2)/2. 2^-27.7
METAFAST_FORMULA float exponential_polynomial(float r) {
  float p = 0x1.123b54p-7f + r * 0x1.6db41ap-10f;
  p = 0x1.55545ep-5f + r * p;
  p = 0x1.55548ep-3f + r * p;
  return 0x1p-1f + r * p;
}

// The same. 2^-56.5
METAFAST_FORMULA double exponential_polynomial(double r) {
  double p = 0x1.28b0491e4e8f2p-22 + r * 0x1.af857f75a6d6ap-26;
  p = 0x1.71dddfd22e348p-19 + r * p;
  p = 0x1.a0199693aeabcp-16 + r * p;
  p = 0x1.a01a01baded85p-13 + r * p;
  p = 0x1.6c16c185a75e1p-10 + r * p;
  p = 0x1.111111110d646p-7 + r * p;
  p = 0x1.555555555003p-5 + r * p;
  p = 0x1.5555555555561p-3 + r * p;
  return 0x1.000000000000bp-1 + r * p;
}

// (tanh(x) / x - 1) / z as numerator / denominator, with z = x^2, |x| <= 0.5625. 2^-28.2
METAFAST_FORMULA float tanh_numerator(float z) { return -0x1.55554cp-2f + z * -0x1.96636cp-10f; }
METAFAST_FORMULA float tanh_denominator(float z) { return 1.0f + z * 0x1.9e5aa4p-2f; }

// The same. 2^-58.4
METAFAST_FORMULA double tanh_numerator(double z) {
  return -0x1.5555555555555p-2 + z * (-0x1.4fdea8693d71ap-6 + z * -0x1.a1ce367c0dd26p-13);
}
METAFAST_FORMULA double tanh_denominator(double z) {
  return 1.0 + z * (0x1.d893592d55191p-2 + z * (0x1.7da0df3f9e184p-6 + z * 0x1.b13d12553637ap-13));
}

// (log((1 + s) / (1 - s)) / s - 2) / z with z = s^2, s = f / (2 + f) and 1 + f between sqrt(1/2) and sqrt(2). 2^-30.2
METAFAST_FORMULA float logarithm_polynomial(float z) {
  return 0x1.55557ap-1f + z * (0x1.995ed4p-2f + z * 0x1.31e0d8p-2f);
}

// The same. 2^-59.5
METAFAST_FORMULA double logarithm_polynomial(double z) {
  double p = 0x1.39a1daa95da20p-3 + z * 0x1.2f04576cf7e6bp-3;
  p = 0x1.74663d690ddafp-3 + z * p;
  p = 0x1.c71c521253c5dp-3 + z * p;
  p = 0x1.24924941e33b9p-2 + z * p;
  p = 0x1.999999997ff04p-2 + z * p;
  return 0x1.5555555555592p-1 + z * p;
}

}  // namespace vector_math
}  // namespace metafast
