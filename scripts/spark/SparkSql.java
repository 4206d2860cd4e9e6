import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.SparkSession;

/**
 * Runs SQL on an Apache Spark in this very process, on loopback only.
 *
 * <p>Usage: {@code java SparkSql DIRECTORY}, where DIRECTORY is for what Spark writes itself. Prints
 * {@code listening PORT}. {@code POST /SESSION} with a statement as its body answers with the rows,
 * a JSON object a line, or with status 400 and why there are none. Each SESSION has its own
 * settings and temporary views. One statement runs at a time.
 */
public final class SparkSql {
  private static final Map<String, SparkSession> SESSIONS = new HashMap<>();

  private SparkSql() {}

  public static void main(String[] args) throws Exception {
    if (args.length != 1) {
      System.err.println("usage: SparkSql DIRECTORY");
      System.exit(2);
    }
    SparkSession spark =
        SparkSession.builder()
            .appName("SparkSql")
            .master("local[1]")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.enabled", "false")
            .config("spark.local.dir", args[0])
            .config("spark.sql.warehouse.dir", args[0])
            .config("spark.sql.shuffle.partitions", "1")
            .config("spark.sql.session.timeZone", "UTC")
            // In the answers, and in the files that a statement writes.
            .config("spark.sql.jsonGenerator.ignoreNullFields", "false")
            .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
            .getOrCreate();
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/", exchange -> answer(spark, exchange));
    server.start();
    System.out.println("listening " + server.getAddress().getPort());
  }

  private static void answer(SparkSession spark, HttpExchange exchange) throws IOException {
    int status = 200;
    String text;
    try {
      String name = exchange.getRequestURI().getPath();
      String statement =
          new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
      SparkSession session = SESSIONS.computeIfAbsent(name, n -> spark.newSession());
      SparkSession.setActiveSession(session);
      List<String> rows = session.sql(statement).toJSON().collectAsList();
      text = String.join("\n", rows);
    } catch (Throwable error) {
      StringWriter trace = new StringWriter();
      error.printStackTrace(new PrintWriter(trace));
      status = 400;
      text = trace.toString();
    }
    byte[] body = text.getBytes(StandardCharsets.UTF_8);
    exchange.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
    try (OutputStream out = exchange.getResponseBody()) {
      out.write(body);
    }
  }
}
