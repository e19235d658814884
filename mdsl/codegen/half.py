"""Conversions between f16 and f32 for processors that have no instructions for them.

LLVM then calls functions of the C compiler's library, which a process need not have: these take their place. The
method is Fabian Giesen's (float->half variants, 2012): a number is scaled as a float, so that the processor rounds.
"""

from __future__ import annotations

from mdsl.target.target import Target

NAMES = ("__extendhfsf2", "__truncsfhf2")
"""What LLVM calls: f16 to f32, and f32 to the nearest f16, of two the even one."""

LLVM_IR = """
define float @__extendhfsf2(half %x) {
  %narrow = bitcast half %x to i16
  %bits = zext i16 %narrow to i32
  %magnitude = and i32 %bits, 32767
  %sign_bit = and i32 %bits, 32768
  %sign = shl i32 %sign_bit, 16
  %shifted = shl i32 %magnitude, 13
  %unscaled = bitcast i32 %shifted to float
  %number = fmul float %unscaled, 0x46F0000000000000   ; 2^112: the biases of the exponents are 15 and 127
  %number_bits = bitcast float %number to i32
  %special = icmp uge i32 %magnitude, 31744            ; infinity or NaN
  %special_bits = or i32 %shifted, 2139095040
  %nan = icmp ugt i32 %magnitude, 31744
  %quiet = select i1 %nan, i32 4194304, i32 0
  %quiet_bits = or i32 %special_bits, %quiet
  %chosen = select i1 %special, i32 %quiet_bits, i32 %number_bits
  %signed = or i32 %chosen, %sign
  %result = bitcast i32 %signed to float
  ret float %result
}

define half @__truncsfhf2(float %x) {
  %bits = bitcast float %x to i32
  %magnitude = and i32 %bits, 2147483647
  %sign_bit = and i32 %bits, 2147483648
  %sign = lshr i32 %sign_bit, 16
  %shifted = lshr i32 %magnitude, 13
  ; Below 2^-14 the last place of an f16 is 2^-24: that of a float from 0.5 to 1.
  %small = icmp ult i32 %magnitude, 947912704
  %absolute = bitcast i32 %magnitude to float
  %rounded = fadd float %absolute, 5.0e-01
  %rounded_bits = bitcast float %rounded to i32
  %small_bits = sub i32 %rounded_bits, 1056964608
  ; Else half a place is added, less a little if the last place is even, and the carry goes on into the exponent.
  %odd = and i32 %shifted, 1
  %almost_half = add i32 %magnitude, 3355447295        ; 4095, and the exponent less 112
  %nearest = add i32 %almost_half, %odd
  %normal_bits = lshr i32 %nearest, 13
  %finite_bits = select i1 %small, i32 %small_bits, i32 %normal_bits
  ; From 2^16 everything is infinite; a NaN keeps the first bits of its payload, and is quiet.
  %large = icmp uge i32 %magnitude, 1199570944
  %nan = icmp ugt i32 %magnitude, 2139095040
  %payload = and i32 %shifted, 1023
  %nan_bits = or i32 %payload, 32256
  %special_bits = select i1 %nan, i32 %nan_bits, i32 31744
  %chosen = select i1 %large, i32 %special_bits, i32 %finite_bits
  %signed = or i32 %chosen, %sign
  %narrow = trunc i32 %signed to i16
  %result = bitcast i16 %narrow to half
  ret half %result
}
"""


def needed(target: Target) -> bool:
    """Whether code for the target may call them."""
    return target.architecture == "x86_64" and "f16c" not in target.needs
