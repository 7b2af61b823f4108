#include <dequant/dequant_c.h>
#include <stdio.h>

int main(void) {
  /* Q4_0: the scale 2.0 as F16, then 16 bytes of two codes each. */
  unsigned char block[18] = {0x00, 0x40, 0x9F};
  float values[32];
  int code = dequant_run(2, block, 0, values, 32, 1);
  if (code != 0) {
    fprintf(stderr, "%s\n", dequant_error_string(code));
    return 1;
  }
  printf("%s on %s: %g %g %g\n", dequant_type_name(2), dequant_target(),
         values[0], values[1], values[16]);
  /* Code 15 is 7 * 2, code 0 is -8 * 2, code 9 is 1 * 2. */
  return values[0] == 14 && values[1] == -16 && values[16] == 2 ? 0 : 1;
}
