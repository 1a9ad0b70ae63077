! SPDX-License-Identifier: Apache-2.0
! TVM-FFI functions of Fortran: arrays, input and output, a common block, quadruple precision.
module numbers
  use iso_c_binding
  implicit none
  integer(c_int64_t), save :: calls = 0
  type, bind(c) :: any
    integer(c_int32_t) :: type_index
    integer(c_int32_t) :: padding
    integer(c_int64_t) :: value
  end type
  interface
    subroutine raise(kind, message) bind(c, name="TVMFFIErrorSetRaisedFromCStr")
      import :: c_char
      character(kind=c_char), intent(in) :: kind(*), message(*)
    end subroutine
  end interface
contains
  function give(result, value) result(status)
    type(any), intent(out) :: result
    integer(c_int64_t), value :: value
    integer(c_int) :: status
    result = any(1, 0, value)
    status = 0
  end function

  ! Dynamic arrays, matmul and reductions.
  function arrays(self, args, count, result) bind(c, name="__tvm_ffi_arrays") result(status)
    type(c_ptr), value :: self
    integer(c_int32_t), value :: count
    type(any), intent(in) :: args(count)
    type(any), intent(out) :: result
    integer(c_int) :: status
    integer(c_int64_t), allocatable :: a(:,:), b(:,:)
    integer :: i, n
    n = int(args(1)%value)
    allocate(a(n, n), b(n, n))
    do i = 1, n
      a(:, i) = [(int(i * 3 - 1, c_int64_t), i = 1, n)]
      b(i, :) = i
    end do
    a = matmul(a, transpose(b))
    status = give(result, sum(a, mask=mod(a, 2_c_int64_t) == 0) + maxval(a) + size(pack(a, a > 5)))
  end function

  ! Formatted output to and input from a string.
  function text(self, args, count, result) bind(c, name="__tvm_ffi_text") result(status)
    type(c_ptr), value :: self
    integer(c_int32_t), value :: count
    type(any), intent(in) :: args(count)
    type(any), intent(out) :: result
    integer(c_int) :: status, i
    character(len=40) :: line
    integer(c_int64_t) :: back, hash
    write(line, '(a, i0, a, f10.4)') 'n=', args(1)%value, ' r=', sqrt(real(args(1)%value, 8))
    read(line(3:), *) back
    hash = back
    do i = 1, len_trim(line)
      hash = hash * 31 + ichar(line(i:i))
    end do
    status = give(result, hash)
  end function

  function counted(self, args, count, result) bind(c, name="__tvm_ffi_counted") result(status)
    type(c_ptr), value :: self
    integer(c_int32_t), value :: count
    type(any), intent(in) :: args(count)
    type(any), intent(out) :: result
    integer(c_int) :: status
    common /shared/ total
    integer(c_int64_t) :: total
    calls = calls + 1
    total = total + args(1)%value
    status = give(result, total * 100 + calls)
  end function

  ! What read itself says of text that is no number.
  function parsed(self, args, count, result) bind(c, name="__tvm_ffi_parsed") result(status)
    type(c_ptr), value :: self
    integer(c_int32_t), value :: count
    type(any), intent(in) :: args(count)
    type(any), intent(out) :: result
    integer(c_int) :: status, code
    character(len=80) :: message, line
    integer(c_int64_t) :: number
    line = 'one'
    read(line, *, iostat=code, iomsg=message) number
    if (code == 0) then
      status = give(result, number)
    else
      call raise('ValueError' // c_null_char, trim(message) // c_null_char)
      status = -1
    end if
  end function

  function powers(self, args, count, result) bind(c, name="__tvm_ffi_powers") result(status)
    type(c_ptr), value :: self
    integer(c_int32_t), value :: count
    type(any), intent(in) :: args(count)
    type(any), intent(out) :: result
    integer(c_int) :: status
    real(16) :: wide
    complex(8) :: z
    wide = sqrt(real(args(1)%value, 16)) ** 3
    z = exp(cmplx(0.5d0, 1.5d0, 8)) ** int(args(1)%value)
    status = give(result, int(wide * 1000000, c_int64_t) + int(real(z) * 1000) + int(aimag(z) * 1000))
  end function
end module
