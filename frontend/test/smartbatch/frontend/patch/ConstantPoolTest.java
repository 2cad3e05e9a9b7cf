package smartbatch.frontend.patch;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;

import java.io.InputStream;
import java.lang.invoke.MethodHandles;
import java.util.ArrayList;
import java.util.List;
import org.junit.Test;

public class ConstantPoolTest {
    /** A list that says what it is. */
    public static class Ours extends ArrayList<Object> {
        /** Same name and descriptor as {@link Integer#parseInt(String)}. */
        public static int parseInt(String text) {
            return -1;
        }
    }

    /** What is compiled against the JDK's classes. */
    public static class Subject {
        private final ArrayList<Object> held = new ArrayList<>();

        public List<Object> list() {
            held.add("a field of the class it was compiled with");
            return held;
        }

        public long number() {
            return Integer.parseInt("7") + 1L + Long.parseLong("9");
        }
    }

    private static byte[] subject() throws Exception {
        try (InputStream in = ConstantPoolTest.class.getResourceAsStream("ConstantPoolTest$Subject.class")) {
            return in.readAllBytes();
        }
    }

    private static Object define(byte[] classFile) throws Exception {
        Class<?> defined = MethodHandles.lookup().defineHiddenClass(classFile, true).lookupClass();
        return defined.getDeclaredConstructor().newInstance();
    }

    @Test
    public void classesAndStaticCallsGoElsewhere() throws Exception {
        Object changed =
                define(
                        new ConstantPool(subject())
                                .construct("java/util/ArrayList", Ours.class)
                                .redirectStatic("java/lang/Integer", "parseInt", Ours.class)
                                .toByteArray());
        assertSame(Ours.class, changed.getClass().getMethod("list").invoke(changed).getClass());
        assertEquals(-1L + 1L + 9L, changed.getClass().getMethod("number").invoke(changed));
    }

    @Test
    public void whatIsNotThereIsAnError() throws Exception {
        ConstantPool pool = new ConstantPool(subject());
        Throwable e = assertThrows(IllegalArgumentException.class, () -> pool.construct("java/util/HashMap", Ours.class));
        assertEquals("the class does not mention new java/util/HashMap", e.getMessage());
    }
}
